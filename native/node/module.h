// The addon as a library that a process has loaded.
#pragma once

namespace margin_softmax {

// Keeps the addon's code in memory until the process ends. Node.js unloads an addon when the last
// environment that loaded it ends, a Worker for one, and threads of ours would run on in memory
// that is gone. On Linux the linker's option `-z nodelete` does this.
void keepLoaded();

}  // namespace margin_softmax
