#include "module.h"

#if defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#elif defined(__APPLE__)
#include <dlfcn.h>
#endif

namespace margin_softmax {

#if defined(_WIN32)

void keepLoaded() {
  // By an address inside it: the file may have any name.
  HMODULE itself;
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                     reinterpret_cast<LPCWSTR>(&keepLoaded), &itself);
}

#elif defined(__APPLE__)

void keepLoaded() {
  Dl_info itself;
  if (dladdr(reinterpret_cast<const void*>(&keepLoaded), &itself))
    dlopen(itself.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

#else

void keepLoaded() {}

#endif

}  // namespace margin_softmax

#if defined(__MINGW32__)

#include <delayimp.h>

// Node-API's functions are found in the program that loads the addon, whatever its name: node.exe,
// a copy of it under another name, or Electron. With Visual Studio cmake-js compiles a hook of its
// own.
static FARPROC WINAPI findProgram(unsigned event, PDelayLoadInfo load) {
  const bool isNode = event == dliNotePreLoadLibrary && _stricmp(load->szDll, "node.exe") == 0;
  return isNode ? reinterpret_cast<FARPROC>(GetModuleHandleW(nullptr)) : nullptr;
}
decltype(__pfnDliNotifyHook2) __pfnDliNotifyHook2 = findProgram;

#endif
