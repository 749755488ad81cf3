#include "launch/identity.h"

#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "launch/version.h"
#include "parallel/agree.h"
#include "parallel/same.h"

extern char **environ;

/* Variables that must be alike; those behind them name what differs from host to host. */
static const char *const alike[] = {"SY_", "DNNL_", "ONEDNN_", "NCCL_", "CUBLAS_", "NVIDIA_TF32"};
static const char *const own[] = {
    "SY_LOG",       "SY_FAULT",       "SY_E2E_",     "NCCL_DEBUG",   "NCCL_SOCKET_",
    "NCCL_IB_HCA",  "NCCL_TOPO_FILE", "NCCL_HOSTID", "NCCL_NET_GDR", "NCCL_CONF_FILE",
    "DNNL_VERBOSE", "ONEDNN_VERBOSE", "SY_RSH",      "NCCL_GRAPH_"};

static bool begins_with_any(const char *text, const char *const *prefix, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strncmp(text, prefix[i], strlen(prefix[i])) == 0) {
            return true;
        }
    }
    return false;
}

/* The linker's digest of the program, out of the note that it left: hexadecimal, into buf. The
   program itself is the first of the loaded objects. */
static int find_build_id(struct dl_phdr_info *info, size_t size, void *buf)
{
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        const char *at = (const char *)(info->dlpi_addr + segment->p_vaddr);
        const char *end = at + (segment->p_type == PT_NOTE ? segment->p_memsz : 0);
        while (at + sizeof(ElfW(Nhdr)) <= end) {
            const ElfW(Nhdr) *note = (const ElfW(Nhdr) *)(const void *)at;
            const char *name = at + sizeof *note, *value = name + ((note->n_namesz + 3) & ~3U);
            if (note->n_type == NT_GNU_BUILD_ID && strncmp(name, "GNU", note->n_namesz) == 0) {
                for (uint32_t k = 0; k < note->n_descsz && k < 20; k++) {
                    snprintf((char *)buf + 2 * k, 3, "%02x", (unsigned char)value[k]);
                }
                return 1;
            }
            at = value + ((note->n_descsz + 3) & ~3U);
        }
    }
    return 1; /* the libraries do not matter */
}

static void identify_program(sy_same *out)
{
    char id[64] = "none", host[64] = "";
    dl_iterate_phdr(find_build_id, id);
    gethostname(host, sizeof host - 1);
    snprintf(out->what, sizeof out->what, "the program");
    snprintf(out->here, sizeof out->here, "switchyard %s, build %s", SY_VERSION, id);
    out->digest = sy_rng_stream_of(out->here);
    const size_t used = strlen(out->here);
    snprintf(out->here + used, sizeof out->here - used, " on %s", host);
    out->mend = "start the same file on every host";
}

static void shorten(const char *text, sy_same *out)
{
    out->digest = sy_rng_stream_of(text);
    snprintf(out->here, sizeof out->here, "%s", *text != '\0' ? text : "none of it");
}

static sy_status identify_command_line(int argc, char **argv, sy_same *out)
{
    sy_status st = SY_OK;
    char *text = NULL;
    size_t n = 1;
    for (int i = 1; i < argc; i++) {
        n += strlen(argv[i]) + 3;
    }
    SY_TRY(sy_alloc((int64_t)n, 1, (void **)&text));
    for (int i = 1, used = 0; i < argc; i++) {
        used += snprintf(text + used, n - (size_t)used, strchr(argv[i], ' ') ? "'%s' " : "%s ",
                         argv[i]);
    }
    snprintf(out->what, sizeof out->what, "the command line");
    shorten(text, out);
    out->mend = "start every rank with the same command line";
cleanup:
    sy_free(&text);
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static sy_status identify_environment(sy_same *out)
{
    sy_status st = SY_OK;
    const char **found = NULL;
    char *text = NULL;
    int32_t n = 0;
    size_t bytes = 1, used = 0;
    for (char **e = environ; *e != NULL; e++, n++) {
    }
    SY_TRY(sy_alloc(n + 1, sizeof *found, (void **)&found));
    n = 0;
    for (char **e = environ; *e != NULL; e++) {
        if (begins_with_any(*e, alike, sizeof alike / sizeof alike[0]) &&
            !begins_with_any(*e, own, sizeof own / sizeof own[0])) {
            found[n++] = *e;
            bytes += strlen(*e) + 1;
        }
    }
    qsort(found, (size_t)n, sizeof *found, by_name);
    SY_TRY(sy_alloc((int64_t)bytes, 1, (void **)&text));
    for (int32_t i = 0; i < n; i++) {
        used += (size_t)snprintf(text + used, bytes - used, i > 0 ? " %s" : "%s", found[i]);
    }
    snprintf(out->what, sizeof out->what, "the environment");
    shorten(text, out);
    out->mend = "set these variables alike for all ranks (mpirun.sh --export NAME)";
cleanup:
    sy_free(&text);
    sy_free(&found);
    return st;
}

sy_status sy_identity_check(int argc, char **argv, sy_comm *world)
{
    sy_status st = SY_OK, mine = SY_OK;
    sy_same item[3] = {0};
    if (world->size == 1) {
        return SY_OK;
    }
    identify_program(&item[0]);
    mine = identify_command_line(argc, argv, &item[1]);
    mine = mine == SY_OK ? identify_environment(&item[2]) : mine;
    SY_TRY(sy_agree(world, mine));
    SY_TRY(sy_same_check(world, item, 3));
cleanup:
    return st;
}
