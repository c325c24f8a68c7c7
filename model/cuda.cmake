# The module router_cuda: model/ops_cuda.c and what it stands on. Needs a CUDA compiler from version 12 on and the header of
# cuBLASLt, but neither a GPU nor cuBLASLt itself, which is looked for when the backend is opened.
#
#   -D ROUTER_CUBLAS=DIR             a cuBLAS that is not the toolkit's: the folder of its include and lib
#   -D CMAKE_CUDA_ARCHITECTURES=...  for fewer kinds of devices, which builds faster
if(ROUTER_CUDA STREQUAL "OFF")
  return()
endif()
set(missing "")
if(ROUTER_SANITIZED AND NOT ROUTER_CUDA STREQUAL "ON")
  set(missing "CUDA is not built with sanitizers")
else()
  include(CheckLanguage)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES) # before the language, which would choose one
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 100-real 120-real 90-virtual)
  endif()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(missing "CMake finds no CUDA compiler (nvcc in PATH, or -D CMAKE_CUDA_COMPILER=FILE)")
  else()
    enable_language(CUDA)
    find_package(CUDAToolkit QUIET)
    if(NOT CUDAToolkit_FOUND OR CUDAToolkit_VERSION VERSION_LESS 12)
      set(missing "found CUDA '${CUDAToolkit_VERSION}', expected 12 or later")
    else()
      find_path(ROUTER_CUBLAS_INCLUDE cublasLt.h HINTS ${ROUTER_CUBLAS}/include ${CUDAToolkit_INCLUDE_DIRS})
      mark_as_advanced(ROUTER_CUBLAS_INCLUDE)
      if(NOT ROUTER_CUBLAS_INCLUDE)
        set(folders ${CUDAToolkit_INCLUDE_DIRS})
        if(ROUTER_CUBLAS)
          set(folders "${ROUTER_CUBLAS}/include or ${folders}")
        endif()
        set(missing "there is no cublasLt.h in ${folders} (NVIDIA's package libcublas-dev; \
one of your own: -D ROUTER_CUBLAS=DIR, the folder of its include and lib)")
      endif()
    endif()
  endif()
endif()
router_module_lacks(ROUTER_CUDA "CUDA backend" "${missing}")
message(STATUS "CUDA backend: ${CUDAToolkit_VERSION}, for ${CMAKE_CUDA_ARCHITECTURES}")

set(kernels ${CUDA_MODULE_SOURCES})
list(FILTER kernels INCLUDE REGEX "[.]cu$")
set(host ${CUDA_MODULE_SOURCES} ${CUDA_MODULE_LIBRARY})
list(FILTER host INCLUDE REGEX "[.]c$")
add_library(router_cuda_host OBJECT ${host})
set_target_properties(router_cuda_host PROPERTIES C_VISIBILITY_PRESET hidden)
target_include_directories(router_cuda_host SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS} ${ROUTER_CUBLAS_INCLUDE})
target_link_libraries(router_cuda_host PRIVATE router_exact)

add_library(router_cuda MODULE ${kernels} $<TARGET_OBJECTS:router_cuda_host>)
set(exports ${CMAKE_SOURCE_DIR}/model/ops_module.map)
set_target_properties(router_cuda PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
  CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden
  LINK_DEPENDS ${exports})
target_include_directories(router_cuda PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(router_cuda PRIVATE -Xcompiler=-Wall,-Wextra)
target_link_options(router_cuda PRIVATE -Wl,--version-script=${exports} -Wl,--no-undefined)
target_link_libraries(router_cuda PRIVATE ${CMAKE_DL_LIBS})
# Where cuBLASLt is now, is where the module looks first.
find_file(ROUTER_CUBLAS_LIBRARY NAMES libcublasLt.so.${CUDAToolkit_VERSION_MAJOR}
  HINTS ${ROUTER_CUBLAS}/lib ${ROUTER_CUBLAS}/lib64 ${CUDAToolkit_LIBRARY_DIR})
mark_as_advanced(ROUTER_CUBLAS_LIBRARY)
if(ROUTER_CUBLAS_LIBRARY)
  get_filename_component(folder ${ROUTER_CUBLAS_LIBRARY} DIRECTORY)
  set_target_properties(router_cuda PROPERTIES BUILD_RPATH ${folder} INSTALL_RPATH ${folder})
endif()
install(TARGETS router_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_BINDIR}/../lib/router)
