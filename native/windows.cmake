# The addon for Windows: by Visual Studio's clang on Windows, or by MinGW's g++, which also cross-compiles (scripts/prebuild.cjs).

# Node-API's functions are those of the program that loads the addon, which a hook finds under any name: cmake-js's own for
# Visual Studio, native/node/module.cc has MinGW's. That is why node.exe is loaded late. (cmake-js says so to the linker of SHARED
# libraries, and this is a MODULE.)
function(margin_softmax_windows target kernels)
  if(MSVC)
    if(CMAKE_JS_NODELIB_DEF AND CMAKE_JS_NODELIB_TARGET)
      execute_process(COMMAND ${CMAKE_AR} /def:${CMAKE_JS_NODELIB_DEF} /out:${CMAKE_JS_NODELIB_TARGET}
        ${CMAKE_STATIC_LINKER_FLAGS})
    endif()
    target_link_options(${target} PRIVATE /DELAYLOAD:NODE.EXE)
    target_link_libraries(${target} PRIVATE delayimp)
    return()
  endif()

  set(node ${CMAKE_BINARY_DIR}/libnode.a)
  execute_process(COMMAND ${CMAKE_DLLTOOL} -d ${CMAKE_JS_NODELIB_DEF} -y ${node} COMMAND_ERROR_IS_FATAL ANY) # -y: late
  # Mathematics of the UCRT, a part of Windows. MinGW's own compute in x87 registers, whose precision it sets on threads that it
  # starts and Node.js leaves as it is on others: of 20,000 sums of exp, log1p, cos and pow 3,606 differed between two threads.
  set(mathematics ${CMAKE_BINARY_DIR}/mathematics)
  file(WRITE ${mathematics}.def
    "LIBRARY api-ms-win-crt-math-l1-1-0.dll\nEXPORTS\nacos\ncos\nexp\nlog\nlog1p\npow\nsin\nsqrt\nsqrtf\n")
  execute_process(COMMAND ${CMAKE_DLLTOOL} -d ${mathematics}.def -l ${mathematics}.a COMMAND_ERROR_IS_FATAL ANY)
  target_link_libraries(${target} PRIVATE ${node} delayimp ${mathematics}.a)
  # -fno-builtin-…: else g++ makes one call of sin and cos, to a sincos that only MinGW has.
  target_compile_options(${target} PRIVATE -fno-builtin-sin -fno-builtin-cos)
  target_link_options(${target} PRIVATE -static -Wl,--gc-sections)
  # A stack frame is aligned to 16 bytes alone, and g++ takes wider vectors there to be aligned (its bug 54412). Debian's g++
  # makes unaligned moves by itself.
  foreach(each ${target} ${kernels})
    target_compile_options(${each} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wa,-muse-unaligned-vector-move>)
  endforeach()
endfunction()
