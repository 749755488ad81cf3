#include "launch/version.h"

#include "backend/backend.h"

void sy_version_print(FILE *out)
{
    fprintf(out, "switchyard %s\nbackends:", SY_VERSION);
    for (const char *const *name = sy_backend_names(); *name != NULL; name++) {
        fprintf(out, " %s", *name);
    }
    fprintf(out, "\nlibraries: %s\n", SY_LIBRARIES);
}
