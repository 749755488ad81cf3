/* Which backends this build has, and the sentence for those that it has not. */
#include "backend/backend_impl.h"

#include <stdio.h>
#include <string.h>

#include "core/config.h"

/* The cuda backend has another name where it is built for the emulator of the tests. */
#ifdef SY_HAVE_CUDA
#ifndef SY__CUDA_NAME
#define SY__CUDA_NAME "cuda"
#endif
extern const sy_backend sy__backend_cuda;
#endif

static const sy_backend *const backends[] = {&sy__backend_cpu, &sy__backend_check, &sy__backend_ref,
#ifdef SY_HAVE_CUDA
                                             &sy__backend_cuda
#endif
};
static const char *const built_names[] = {"cpu", "check", "ref",
#ifdef SY_HAVE_CUDA
                                          SY__CUDA_NAME,
#endif
                                          NULL};
enum { N_BACKENDS = sizeof backends / sizeof backends[0] };

/* What a build may lack, and the option that brings it. */
static const struct {
    const char *name, *option;
} optional_backends[] = {{"cuda", "-Dcuda=enabled"}};
enum { N_OPTIONAL = sizeof optional_backends / sizeof optional_backends[0] };

const char *const *sy_backend_names(void)
{
    return built_names;
}

static const sy_backend *find_built(const char *name)
{
    for (int32_t i = 0; i < N_BACKENDS; i++) {
        if (strcmp(backends[i]->name, name) == 0) {
            return backends[i];
        }
    }
    return NULL;
}

static sy_status unknown_name(const char *name)
{
    static const char *const names[] = {"auto", "cpu", "check", "cpu_check", "ref", "cuda"};
    const char *near = sy_nearest_name(name, names, sizeof names / sizeof names[0]);
    char hint[64] = "legal are auto, cpu, cpu_check, ref, cuda";
    if (near) {
        snprintf(hint, sizeof hint, "did you mean '%s'?", near);
    }
    return sy_error(SY_ERR_USAGE, "unknown backend '%s' (%s)", name, hint);
}

sy_status sy__backend_find(const char *name, const sy_backend **out)
{
    const sy_backend *found = NULL;
    if (!name || strcmp(name, "auto") == 0) {
        found = find_built("cuda");
        if (!found || found->usable() != SY_OK) {
            sy_error_clear();
            found = find_built("cpu");
        }
    } else {
        found = find_built(strcmp(name, "cpu_check") == 0 ? "check" : name);
    }
    if (found) {
        *out = found;
        return SY_OK;
    }
    for (int32_t i = 0; i < N_OPTIONAL; i++) {
        if (strcmp(optional_backends[i].name, name) == 0) {
            return sy_error(SY_ERR_UNSUPPORTED, "backend '%s' was not built; reconfigure with %s",
                            name, optional_backends[i].option);
        }
    }
    return unknown_name(name);
}
