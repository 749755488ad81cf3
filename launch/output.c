#include "launch/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "parallel/agree.h"

static sy_status check(const char *command, const char *path, bool is_folder)
{
    sy_status st = SY_OK;
    struct stat info;
    char *folder = NULL;
    size_t n = strlen(path);
    SY_REQUIRE(n > 0 && (is_folder || path[n - 1] != '/'), SY_ERR_USAGE,
               "%s: '%s' is not the name of a %s", command, path, is_folder ? "folder" : "file");
    while (n > 1 && path[n - 1] == '/') {
        n--;
    }
    const char *slash = memrchr(path, '/', n);
    SY_REQUIRE(lstat(path, &info) != 0, SY_ERR_USAGE,
               "%s: '%s' exists already; remove it or choose another name", command, path);
    if (slash == NULL || slash == path) {
        SY_TRY(sy_strdup(slash == NULL ? "." : "/", &folder));
    } else {
        SY_TRY(sy_asprintf(&folder, "%.*s", (int)(slash - path), path));
    }
    SY_REQUIRE(access(folder, W_OK | X_OK) == 0, SY_ERR_USAGE,
               "%s: cannot write into the folder '%s': %s", command, folder, strerror(errno));
cleanup:
    sy_free(&folder);
    return st;
}

sy_status sy_output_path(const sy_cli *cli, sy_comm *world, bool is_folder, const char **out)
{
    sy_status st = SY_OK, mine = SY_OK;
    const char *command = cli->command->name, *path = sy_cli_text(cli, "output");
    SY_REQUIRE(path != NULL, SY_ERR_USAGE, "%s: -o is missing; usage: switchyard %s %s", command,
               command, cli->command->operands);
    if (world->rank == 0) {
        mine = check(command, path, is_folder);
    }
    SY_TRY(sy_agree(world, mine));
    *out = path;
cleanup:
    return st;
}

void sy_output_progress_update(void *self, int64_t done, int64_t total)
{
    enum { MB = 1000000 };
    sy_output_progress *p = self;
    sy_progress_spec spec = {.what = p->what, .total = total / MB, .plain_s = 5};
    if (total < 256 * (int64_t)MB) {
        return; /* over before it is read */
    }
    if (p->line == NULL && sy_progress_create(&spec, &p->line) != SY_OK) {
        sy_error_clear(); /* the work is worth more than its progress line */
        return;
    }
    sy_progress_update(p->line, done / MB < total / MB ? done / MB : total / MB, "MB");
}

const char *sy_format_bytes(double bytes, char *buf, size_t buf_bytes)
{
    static const char *const unit[] = {"bytes", "kB", "MB", "GB", "TB"};
    int32_t k = 0;
    while (bytes >= 1000 && k < 4) {
        bytes /= 1000;
        k++;
    }
    snprintf(buf, buf_bytes, "%.*f %s", k == 0 ? 0 : 2, bytes, unit[k]);
    return buf;
}

void sy_print_escaped(const char *text, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c == '\n') {
            printf("\\n");
        } else if (c < 0x20 || c == 0x7f) {
            printf("\\x%02x", c);
        } else {
            putchar(c);
        }
    }
}
