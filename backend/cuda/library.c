/* cuBLASLt, found when a GPU is opened. */
#include "backend/cuda/cublas.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

/* As the loader finds it, then where it stood when this program was built. */
static void *open_library(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    return library ? library : dlopen(SY__CUDA_LIBDIR "/" LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

sy_status sy_cublas_load(sy_cublas *out)
{
    sy_status st = SY_OK;
    sy_cublas lib = {.library = open_library()};
    SY_REQUIRE(lib.library, SY_ERR_UNSUPPORTED,
               "backend 'cuda' needs " LIBRARY " (cuBLAS of CUDA %d), which is not found; install "
               "it, or name its folder in LD_LIBRARY_PATH",
               CUBLAS_VER_MAJOR);
#define FIND(name)                                                                                 \
    {                                                                                              \
        void *found = dlsym(lib.library, #name);                                                   \
        SY_REQUIRE(found, SY_ERR_UNSUPPORTED, LIBRARY " has no %s", #name);                        \
        memcpy(&lib.name, &found, sizeof found);                                                   \
    }
    SY_CUBLAS_FUNCTIONS(FIND)
    *out = lib;
    lib.library = NULL;
cleanup:
    sy_cublas_unload(&lib);
    return st;
}

void sy_cublas_unload(sy_cublas *lib)
{
    if (lib->library) {
        dlclose(lib->library);
        lib->library = NULL;
    }
}
