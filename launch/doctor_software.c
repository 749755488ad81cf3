/* doctor: MPI, the libraries, accelerators. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"
#include "backend/cpu_peak.h"
#include "checkpoint/hdf5_version.h"
#include "core/pci.h"
#include "launch/doctor_impl.h"
#include "launch/version.h"
#include "parallel/mpi_facts.h"

void sy__doctor_mpi(sy__doctor *d)
{
    sy_mpi_facts facts;
    if (!d->env->mpi) {
        sy__doctor_say(d, "mpi", SY__FINE, NULL,
                       "built with MPI, started without mpirun: a job of one rank");
        return;
    }
    sy_mpi_facts_get(&facts);
    sy__doctor_say(d, "mpi", SY__FINE, NULL, "%s, MPI_THREAD_MULTIPLE", facts.library);
    if (facts.transports[0] != '\0') {
        sy__doctor_say(d, "mpi", SY__FINE, NULL, "ranks talk by %s", facts.transports);
    }
    sy__doctor_say(d, "mpi", SY__FINE, NULL,
                   facts.has_ulfm ? "fault tolerance (ULFM) is built in; it is not needed"
                                  : "no fault tolerance (ULFM): it is not needed, a job that loses "
                                    "a rank ends and is started again");
}

void sy__doctor_libraries(sy__doctor *d)
{
    char text[256];
    sy__doctor_say(d, "libraries", SY__FINE, NULL, "switchyard %s", SY_VERSION);
    if (sy_hdf5_version_format(text, sizeof text)) {
        sy__doctor_say(d, "libraries", SY__FINE, NULL, "%s", text);
    } else {
        sy__doctor_say(d, "libraries", SY__PROBLEM,
                       "build again on this machine, or let LD_LIBRARY_PATH find the library that "
                       "the program was built with",
                       "%s", text);
    }
    sy_cpu_library_format(text, sizeof text);
    sy__doctor_say(d, "libraries", SY__FINE, NULL, "%s", text);
}

static bool is_built(const char *backend)
{
    for (const char *const *name = sy_backend_names(); *name != NULL; name++) {
        if (strcmp(*name, backend) == 0) {
            return true;
        }
    }
    return false;
}

/* Where the driver's GPUs stand. */
static void tell_places(sy__doctor *d)
{
    DIR *dir = opendir("/sys/bus/pci/drivers/nvidia");
    for (struct dirent *e = dir ? readdir(dir) : NULL; e != NULL; e = readdir(dir)) {
        sy_pci_place p;
        if (strchr(e->d_name, ':') == NULL || !sy_pci_place_of("/sys", e->d_name, &p)) {
            continue;
        }
        if (p.node < 0) {
            sy__doctor_say(d, "gpus", SY__FINE, NULL, "GPU %s", e->d_name);
        } else {
            sy__doctor_say(d, "gpus", SY__FINE, NULL,
                           "GPU %s at memory node %d, cores %s; network cards beside it: %s",
                           e->d_name, p.node, p.cores, p.cards[0] != '\0' ? p.cards : "none");
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

/* Rows about CUDA and NCCL stand here. */
void sy__doctor_gpus(sy__doctor *d)
{
    const bool here = access("/proc/driver/nvidia/version", F_OK) == 0;
    if (is_built("cuda")) {
        sy__doctor_say(d, "gpus", here ? SY__FINE : SY__NOTE,
                       here ? NULL : "load NVIDIA's driver, or use device.backend cpu",
                       here ? "the CUDA backend is built in and there is a driver"
                            : "the CUDA backend is built in, and there is no driver here");
    } else if (here) {
        sy__doctor_say(d, "gpus", SY__NOTE, "build with CUDA to use them",
                       "there are NVIDIA GPUs, and CUDA and NCCL are not built in");
    } else {
        sy__doctor_say(d, "gpus", SY__FINE, NULL, "no GPUs here; CUDA and NCCL are not built in");
    }
    tell_places(d);
}
