# For which GPUs the kernels are compiled: a list as CMake's CUDA_ARCHITECTURES. "real" is machine code, which also runs on
# later GPUs of the same major version; without it a number stands for PTX, too, which the driver compiles at first use.
#
#   development   the GPUs that are here (`nvidia-smi` tells), or else one of each kind that kernels tell apart, and PTX
#                 for Blackwell's data-centre GPUs and what comes after
#   release       every generation, and PTX for Jetson Thor (11.0) and what comes after. 8.7, 10.3 and 12.1 run the machine
#                 code of 8.6, 10.0 and 12.0
function(margin_softmax_cuda_architectures given nvcc list why)
  if(given STREQUAL "release")
    set(chosen 75-real 80-real 86-real 89-real 90-real 100 120-real)
    set(reason "for every generation")
  elseif(given STREQUAL "development")
    margin_softmax_gpus_here(here)
    execute_process(COMMAND ${nvcc} --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
    set(chosen)
    foreach(gpu IN LISTS here)
      if(known MATCHES "compute_${gpu}[^0-9]")
        list(APPEND chosen ${gpu}-real)
      endif()
    endforeach()
    list(LENGTH chosen count)
    list(LENGTH here wanted)
    if(wanted AND count EQUAL wanted)
      set(reason "for the GPU that is here")
    else()
      set(chosen 75-real 80-real 90 120-real)
      set(reason "as no GPU answers")
      if(wanted)
        set(reason "as this nvcc does not know the GPU that is here")
      endif()
    endif()
  else()
    set(chosen ${given})
    set(reason "as given")
  endif()
  set(${list} ${chosen} PARENT_SCOPE)
  set(${why} ${reason} PARENT_SCOPE)
endfunction()

# The compute capabilities of this machine's GPUs, "90;120", each once.
function(margin_softmax_gpus_here list)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE answer ERROR_QUIET RESULT_VARIABLE failed TIMEOUT 20)
  set(gpus)
  if(failed EQUAL 0)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" versions "${answer}")
    string(REPLACE "." "" gpus "${versions}")
    list(REMOVE_DUPLICATES gpus)
  endif()
  set(${list} ${gpus} PARENT_SCOPE)
endfunction()
