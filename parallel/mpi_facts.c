#include "parallel/mpi_facts.h"

#include <link.h>
#include <mpi.h>
#ifdef OMPI_HAVE_MPI_EXT
#include <mpi-ext.h>
#endif
#include <stdio.h>
#include <string.h>

/* Open MPI keeps the components loaded that it chose: mca_pml_ob1.so, mca_btl_tcp.so. */
static int note_component(struct dl_phdr_info *info, size_t size, void *self)
{
    sy_mpi_facts *out = self;
    static const char *const kind[] = {"mca_pml_", "mca_mtl_", "mca_btl_"};
    const char *base = strrchr(info->dlpi_name, '/');
    (void)size;
    for (int i = 0; i < 3 && base != NULL; i++) {
        const char *name = base + 1 + strlen(kind[i]);
        if (strncmp(base + 1, kind[i], strlen(kind[i])) == 0) {
            const size_t used = strlen(out->transports);
            snprintf(out->transports + used, sizeof out->transports - used, "%s%.*s",
                     used == 0 ? "" : " ", (int)strcspn(name, "."), name);
        }
    }
    return 0;
}

void sy_mpi_facts_get(sy_mpi_facts *out)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int n = 0;
    *out = (sy_mpi_facts){0};
    MPI_Get_library_version(text, &n);
    text[strcspn(text, ",\n")] = '\0';
    snprintf(out->library, sizeof out->library, "%.120s", text);
    dl_iterate_phdr(note_component, out);
#ifdef OMPI_HAVE_MPI_EXT_FTMPI
    out->has_ulfm = true;
#endif
}
