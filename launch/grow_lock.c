/* One command at a time writes a file: it holds ".name.lock" beside it, which is let go with the
   process, and gone after an end in order. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "launch/grow.h"
#include "parallel/agree.h"

/* *fd -1: the file was removed by who held it just before; open it again. Where the file system
   knows no locks, there is none. */
static sy_status try_lock(const sy_grow *g, const char *path, int *fd)
{
    sy_status st = SY_OK;
    struct stat held, named;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    SY_REQUIRE(*fd >= 0, SY_ERR_USAGE, "cannot create '%s': %s", path, strerror(errno));
    SY_REQUIRE(flock(*fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK, SY_ERR_USAGE,
               "%s: another command is writing '%s'; wait for its end, or choose another name",
               g->cli->command->name, g->out);
    if (fstat(*fd, &held) != 0 || stat(path, &named) != 0 || held.st_ino != named.st_ino) {
        close(*fd);
        *fd = -1;
    }
cleanup:
    if (st != SY_OK && *fd >= 0) {
        close(*fd);
    }
    return st;
}

static sy_status lock(sy_grow *g)
{
    sy_status st = SY_OK;
    char *path = NULL;
    int fd = -1;
    SY_TRY(sy_grow_hidden_name(g, "lock", &path));
    while (fd < 0) {
        SY_TRY(try_lock(g, path, &fd));
    }
    g->lock = path;
    g->lock_fd = fd;
    path = NULL;
cleanup:
    sy_free(&path);
    return st;
}

sy_status sy_grow_lock(sy_grow *g)
{
    return sy_agree(g->env->world, g->env->world->rank == 0 ? lock(g) : SY_OK);
}

void sy_grow_unlock(sy_grow *g)
{
    if (g->lock != NULL) {
        (void)unlink(g->lock);
        close(g->lock_fd);
        sy_free(&g->lock);
    }
}
