# The CUDA toolkit as Witan needs it: nvcc, the headers of the runtime, cuBLAS and NCCL, and the
# runtime library. cuBLAS and NCCL are opened when the program runs, so that it starts without them.
#
# nvcc is called by custom commands, not by CMake's own language support: that wants a full toolkit
# with a static runtime, which one laid out by Python wheels has not.

# Sets WITAN_CUDA_FOUND and, if not, WITAN_CUDA_REASON.
function(witan_find_cuda)
    set(WITAN_CUDA_FOUND FALSE PARENT_SCOPE)
    find_program(WITAN_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH
                 PATHS /usr/local/cuda PATH_SUFFIXES bin)
    if(NOT WITAN_NVCC)
        set(WITAN_CUDA_REASON "nvcc was not found" PARENT_SCOPE)
        return()
    endif()
    execute_process(COMMAND ${WITAN_NVCC} --version OUTPUT_VARIABLE text ERROR_QUIET)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" found "${text}")
    set(release "${CMAKE_MATCH_1}")
    if(release STREQUAL "" OR release VERSION_LESS 12.8)
        set(WITAN_CUDA_REASON "${WITAN_NVCC} is of CUDA '${release}', expected 12.8 or newer"
            PARENT_SCOPE)
        return()
    endif()
    file(REAL_PATH ${WITAN_NVCC} nvcc)
    cmake_path(GET nvcc PARENT_PATH toolkit)
    cmake_path(GET toolkit PARENT_PATH toolkit)
    set(roots ${toolkit} ${toolkit}/targets/x86_64-linux ${toolkit}/../nccl ${toolkit}/../cublas
              ${toolkit}/../cuda_runtime)
    foreach(header cuda_runtime_api.h cublas_v2.h nccl.h)
        string(MAKE_C_IDENTIFIER "WITAN_INCLUDE_${header}" variable)
        find_path(${variable} ${header} HINTS ${roots} PATH_SUFFIXES include)
        if(NOT ${variable})
            set(WITAN_CUDA_REASON "${header} was not found beside ${nvcc}" PARENT_SCOPE)
            return()
        endif()
        list(APPEND includes ${${variable}})
    endforeach()
    find_library(WITAN_CUDART NAMES cudart_static cudart libcudart.so.13 libcudart.so.12
                 HINTS ${roots} PATH_SUFFIXES lib64 lib)
    if(NOT WITAN_CUDART)
        set(WITAN_CUDA_REASON "no CUDA runtime library was found beside ${nvcc}" PARENT_SCOPE)
        return()
    endif()
    list(REMOVE_DUPLICATES includes)
    list(REMOVE_ITEM includes /usr/include) # named again it would hide headers from #include_next
    set(WITAN_CUDA_INCLUDES ${includes} PARENT_SCOPE)
    set(WITAN_CUDA_RELEASE ${release} PARENT_SCOPE)
    set(WITAN_CUDA_FOUND TRUE PARENT_SCOPE)
endfunction()

# witan_cuda_objects(OUT sources...): compile .cu files; OUT is the list of object files.
function(witan_cuda_objects out)
    set(objects "")
    set(includes ${WITAN_CUDA_INCLUDES})
    list(TRANSFORM includes PREPEND -isystem=)
    foreach(source IN LISTS ARGN)
        cmake_path(RELATIVE_PATH source BASE_DIRECTORY ${PROJECT_SOURCE_DIR} OUTPUT_VARIABLE name)
        set(object ${PROJECT_BINARY_DIR}/cuda/${name}.o)
        cmake_path(GET object PARENT_PATH folder)
        file(MAKE_DIRECTORY ${folder})
        # -fmad=false: a product is rounded before it is added unless the source says fma, so that
        # sums are the same bits as the host's.
        add_custom_command(OUTPUT ${object}
            COMMAND ${WITAN_NVCC} -c -o ${object} ${source} -MD -MF ${object}.d
                    -std=c++17 -O3 -lineinfo -fmad=false
                    -gencode=arch=compute_80,code=sm_80
                    -gencode=arch=compute_90a,code=sm_90a
                    -gencode=arch=compute_100,code=[sm_100,compute_100]
                    -Xcompiler=-fPIC,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-Wall,-Wextra,-Wno-missing-field-initializers
                    $<$<BOOL:${WITAN_WERROR}>:-Werror=all-warnings>
                    -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/include
                    -I${PROJECT_SOURCE_DIR}/tests ${includes}
            DEPENDS ${source}
            DEPFILE ${object}.d
            COMMAND_EXPAND_LISTS # an option that is off is no argument, not an empty one
            COMMENT "Compiling ${name} for sm_80, sm_90a, sm_100"
            VERBATIM)
        list(APPEND objects ${object})
    endforeach()
    set(${out} ${objects} PARENT_SCOPE)
endfunction()
