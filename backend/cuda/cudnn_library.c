/* cuDNN, found when attention is first computed. */
#include "backend/cuda/cudnn.h"

#include <dlfcn.h>
#include <string.h>

#define LIBRARY "libcudnn.so.9"

/* As the loader finds it, then beside the CUDA that this program was built with. */
static void *open_library(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    return library ? library : dlopen(SY__CUDA_LIBDIR "/" LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

sy_status sy_cudnn_load(sy_cudnn *out)
{
    sy_status st = SY_OK;
    sy_cudnn lib = {.library = open_library()};
    SY_REQUIRE(lib.library, SY_ERR_UNSUPPORTED, LIBRARY " is not found");
#define FIND(type, name, args)                                                                     \
    {                                                                                              \
        void *found = dlsym(lib.library, #name);                                                   \
        SY_REQUIRE(found, SY_ERR_UNSUPPORTED, LIBRARY " has no %s", #name);                        \
        memcpy(&lib.name, &found, sizeof found);                                                   \
    }
    SY_CUDNN_FUNCTIONS(FIND)
    *out = lib;
    lib.library = NULL;
cleanup:
    sy_cudnn_unload(&lib);
    return st;
}

void sy_cudnn_unload(sy_cudnn *lib)
{
    if (lib->library) {
        dlclose(lib->library);
        lib->library = NULL;
    }
}
