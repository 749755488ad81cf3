/* NCCL, found when the first communicator of GPUs is made. */
#include <dlfcn.h>
#include <string.h>

#include "parallel/nccl_table.h"

#define LIBRARY "libnccl.so.2"

/* As the loader finds it, then where it stood when this program was built. */
static void *open_library(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    return library ? library : dlopen(SY__NCCL_LIBDIR "/" LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

sy_status sy_nccl_load(sy_nccl *out)
{
    sy_status st = SY_OK;
    sy_nccl lib = {.library = open_library()};
    void *found = NULL;
    SY_REQUIRE(lib.library, SY_ERR_UNSUPPORTED,
               "several ranks with backend 'cuda' need " LIBRARY " (NCCL), which is not found; "
               "install it, or name its folder in LD_LIBRARY_PATH");
#define FIND(name)                                                                                 \
    found = dlsym(lib.library, #name);                                                             \
    SY_REQUIRE(found, SY_ERR_UNSUPPORTED,                                                          \
               LIBRARY " has no %s: it is older than 2.14; install a newer one", #name);           \
    memcpy(&lib.name, &found, sizeof found);
    SY_NCCL_FUNCTIONS(FIND)
#undef FIND
#define FIND_IF_THERE(name)                                                                        \
    found = dlsym(lib.library, #name);                                                             \
    memcpy(&lib.name, &found, sizeof found);
    FIND_IF_THERE(ncclAlltoAll)
    FIND_IF_THERE(ncclCommRegister)
    FIND_IF_THERE(ncclCommDeregister)
#undef FIND_IF_THERE
    *out = lib;
    lib.library = NULL;
cleanup:
    sy_nccl_unload(&lib);
    return st;
}

void sy_nccl_unload(sy_nccl *lib)
{
    if (lib->library) {
        dlclose(lib->library);
        lib->library = NULL;
    }
}
