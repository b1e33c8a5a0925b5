// Declarations that the bindings of a head share.
#pragma once
#include "../head/head.h"
#include "request.h"

namespace margin_softmax::binding {

// The settings of a new head, or of a changed one.
HeadSettings readHeadSettings(const Request& request);

}  // namespace margin_softmax::binding
