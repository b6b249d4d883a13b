# The CUDA toolkit as Witan needs it: nvcc, the headers of the runtime, cuBLAS and NCCL, and the
# runtime library. cuBLAS and NCCL are opened when the program runs, so that it starts without them.
# docs/building.md tells users in which order it is looked for.
#
# nvcc is called by custom commands, not by CMake's own language support: that wants a full toolkit
# with a static runtime, which one laid out by Python wheels has not.

# The nvcc that was named, else the first on PATH or in /usr/local/cuda. Sets OUT to its path and
# REASON to "", or REASON to why there is none: another than the named one is never taken.
function(witan_find_nvcc out reason)
    set(${reason} "" PARENT_SCOPE)
    if(WITAN_NVCC)
        set(${out} ${WITAN_NVCC} PARENT_SCOPE)
        return()
    endif()
    set(named "CUDAToolkit_ROOT=${CUDAToolkit_ROOT}")
    foreach(variable CUDACXX CUDAToolkit_ROOT CUDA_HOME CUDA_PATH)
        list(APPEND named "${variable}=$ENV{${variable}}")
    endforeach()
    list(FILTER named EXCLUDE REGEX "=$")
    if(named)
        list(GET named 0 named)
        string(REGEX REPLACE "^[^=]*=" "" value "${named}")
        if(named MATCHES "^CUDACXX=")
            find_program(nvcc NAMES "${value}" NO_CACHE)
        else()
            find_program(nvcc NAMES nvcc PATHS "${value}/bin" NO_DEFAULT_PATH NO_CACHE)
        endif()
        if(NOT nvcc)
            set(${reason} "${named}: nvcc was not found there" PARENT_SCOPE)
        endif()
    else()
        find_program(nvcc NAMES nvcc PATHS /usr/local/cuda/bin NO_CACHE)
        if(NOT nvcc)
            set(${reason} "nvcc was not found" PARENT_SCOPE)
        endif()
    endif()
    set(${out} ${nvcc} PARENT_SCOPE)
endfunction()

# The folders of the toolkit whose bin/nvcc this is, as named or, where that is a link or a script,
# as it leads to: the first with the runtime's header. A toolkit may keep headers and libraries in
# targets/; wheels before CUDA 13 have a folder for each part. OUT is empty if there is none.
function(witan_toolkit_folders out nvcc)
    execute_process(COMMAND ${nvcc} --dryrun -c none.cu OUTPUT_VARIABLE text ERROR_VARIABLE text)
    string(REGEX MATCH "TOP=([^\r\n]+)" found "${text}")
    file(REAL_PATH "${nvcc}" real)
    set(${out} "" PARENT_SCOPE)
    foreach(root "${nvcc}/../.." "${real}/../.." "${CMAKE_MATCH_1}")
        cmake_path(NORMAL_PATH root)
        string(REGEX REPLACE "(.)/$" "\\1" root "${root}")
        set(folders ${root} ${root}/targets/x86_64-linux ${root}/../cuda_runtime)
        foreach(folder IN LISTS folders)
            if(root AND EXISTS ${folder}/include/cuda_runtime_api.h)
                set(${out} ${folders} PARENT_SCOPE)
                return()
            endif()
        endforeach()
    endforeach()
endfunction()

# The runtime library of one folder after the other, in each the static one first.
function(witan_find_cudart out release)
    string(REGEX MATCH "^[0-9]+" major ${release})
    foreach(folder IN LISTS ARGN)
        find_library(cudart NAMES cudart_static cudart libcudart.so.${major}
                     PATHS ${folder} PATH_SUFFIXES lib64 lib lib/x86_64-linux-gnu
                     NO_DEFAULT_PATH NO_CACHE)
    endforeach()
    set(${out} ${cudart} PARENT_SCOPE)
endfunction()

# "13.0" of the header that says 13000.
function(witan_cudart_version out header)
    file(STRINGS ${header} line REGEX "define[ \t]+CUDART_VERSION[ \t]+[0-9]+")
    string(REGEX MATCH "[0-9]+" version "${line}")
    if(version)
        math(EXPR major "${version} / 1000")
        math(EXPR minor "${version} % 1000 / 10")
        set(version ${major}.${minor})
    endif()
    set(${out} "${version}" PARENT_SCOPE)
endfunction()

# Sets WITAN_CUDA_FOUND and, if not, WITAN_CUDA_REASON; WITAN_CUDA_TEXT names what was chosen. Where
# the runtime is a shared library, WITAN_CUDART_FOLDER is its folder. Nothing but nvcc is cached, so
# that a build folder given another one keeps nothing of the first.
function(witan_find_cuda)
    set(WITAN_CUDA_FOUND FALSE PARENT_SCOPE)
    macro(refuse text)
        set(WITAN_CUDA_REASON "${text}" PARENT_SCOPE)
        return()
    endmacro()
    witan_find_nvcc(nvcc reason)
    if(reason)
        refuse("${reason}")
    endif()
    execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE text ERROR_QUIET)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" found "${text}")
    set(release "${CMAKE_MATCH_1}")
    if(release STREQUAL "" OR release VERSION_LESS 12.8)
        refuse("${nvcc} is of CUDA '${release}', expected 12.8 or newer")
    endif()
    witan_toolkit_folders(folders ${nvcc})
    if(NOT folders)
        cmake_path(GET nvcc PARENT_PATH folder)
        cmake_path(GET folder PARENT_PATH folder)
        refuse("${nvcc}: no include/cuda_runtime_api.h in ${folder}")
    endif()
    list(GET folders 0 toolkit)
    find_file(runtime_header cuda_runtime_api.h PATHS ${folders} PATH_SUFFIXES include
              NO_DEFAULT_PATH NO_CACHE)
    witan_cudart_version(version ${runtime_header})
    if(NOT version STREQUAL release)
        refuse("${nvcc} is of CUDA ${release}, ${runtime_header} of '${version}'")
    endif()
    find_file(cublas_header cublas_v2.h PATHS ${folders} ${toolkit}/../cublas PATH_SUFFIXES include
              NO_DEFAULT_PATH NO_CACHE)
    if(NOT cublas_header)
        refuse("${nvcc}: no include/cublas_v2.h in ${toolkit}")
    endif()
    set(cudart ${WITAN_CUDART})
    if(cudart AND NOT EXISTS ${cudart})
        refuse("WITAN_CUDART=${cudart}: there is no such file")
    elseif(NOT cudart)
        witan_find_cudart(cudart ${release} ${folders})
    endif()
    if(NOT cudart)
        refuse("${nvcc}: no CUDA runtime library in ${toolkit}")
    endif()
    # NCCL is no part of the toolkit: one of the system serves too.
    if(WITAN_NCCL_INCLUDE)
        find_file(nccl_header nccl.h PATHS ${WITAN_NCCL_INCLUDE} NO_DEFAULT_PATH NO_CACHE)
    else()
        find_file(nccl_header nccl.h HINTS ${folders} ${toolkit}/../nccl PATH_SUFFIXES include
                  NO_CACHE)
    endif()
    if(NOT nccl_header)
        refuse("nccl.h was not found in ${toolkit}, beside it or among the system's headers")
    endif()
    foreach(header ${runtime_header} ${cublas_header} ${nccl_header})
        cmake_path(GET header PARENT_PATH folder)
        list(APPEND includes ${folder})
    endforeach()
    list(REMOVE_DUPLICATES includes)
    list(REMOVE_ITEM includes /usr/include) # named again it would hide headers from #include_next
    set(WITAN_NVCC ${nvcc} CACHE FILEPATH "nvcc of the toolkit to build with")
    set(WITAN_CUDA_INCLUDES ${includes} PARENT_SCOPE)
    set(WITAN_CUDA_TEXT "CUDA ${release}, ${nvcc}, ${cudart}, ${nccl_header}" PARENT_SCOPE)
    set(WITAN_CUDART ${cudart} PARENT_SCOPE)
    set(WITAN_CUDART_FOLDER "" PARENT_SCOPE)
    if(NOT cudart MATCHES "\\.a$")
        cmake_path(GET cudart PARENT_PATH folder)
        set(WITAN_CUDART_FOLDER ${folder} PARENT_SCOPE)
    endif()
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
                    -std=c++17 -O3 -lineinfo -fmad=false --compress-mode=size
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
