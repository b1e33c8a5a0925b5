# The options that both addons of the project are compiled and linked with, whatever they are made of: CMakeLists.txt,
# mpi/CMakeLists.txt.

# For finding mistakes: address (with undefined behaviour) or thread. scripts/test-sanitized.cjs runs the suites under it.
set(MARGIN_SOFTMAX_SANITIZE "" CACHE STRING "address, thread, or empty")
if(NOT MARGIN_SOFTMAX_SANITIZE MATCHES "^(address|thread|)$")
  message(FATAL_ERROR "Expected address or thread for MARGIN_SOFTMAX_SANITIZE but received ${MARGIN_SOFTMAX_SANITIZE}")
endif()

# An option of ours, as cmake-js overwrites CMAKE_CXX_FLAGS.
function(margin_softmax_harden target)
  if(MARGIN_SOFTMAX_SANITIZE STREQUAL "address")
    # Undefined behaviour ends the process, or a suite would not notice. vptr needs a C++ library that is shared.
    set(sanitizer -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all)
  elseif(MARGIN_SOFTMAX_SANITIZE STREQUAL "thread")
    set(sanitizer -fsanitize=thread)
  endif()
  if(sanitizer)
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${sanitizer};-fno-omit-frame-pointer;-g1>")
    target_link_options(${target} PRIVATE ${sanitizer})
  elseif(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    # As oneDNN: overwritten return addresses and buffers end the process, and what the linker resolved can't be changed.
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-fstack-protector-strong;-Wformat;-Wformat-security>")
    if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug") # it needs an optimizing compiler
      target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-U_FORTIFY_SOURCE;-D_FORTIFY_SOURCE=2>")
    endif()
    target_link_options(${target} PRIVATE "LINKER:-z,noexecstack,-z,relro,-z,now")
  endif()
endfunction()
