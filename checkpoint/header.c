/* Where the attribute `created` lies in a file: the one thing in which two saves of the same state
   differ. What is not found, as where attributes lie in a heap, is not left out of the checksum. */
#include <string.h>

#include "checkpoint/h5_read_impl.h"
#include "checkpoint/integrity_impl.h"

typedef struct found {
    sy__extent value, checksum;
} found;

/* Behind its head an attribute's message has name, type, space and value. */
static sy_status take_message(void *self, const sy__h5_message *m)
{
    enum { HEAD = 9 };
    static const char name[] = "created";
    found *f = self;
    if (m->type != SY__H5_ATTRIBUTE || f->value.bytes > 0 || m->n < HEAD + (int64_t)sizeof name ||
        memcmp(m->body + HEAD, name, sizeof name) != 0) {
        return SY_OK;
    }
    const int64_t value = HEAD + sy__h5_number(m->body + 2, 2) + sy__h5_number(m->body + 4, 2) +
                          sy__h5_number(m->body + 6, 2);
    if (value < m->n) {
        f->value = (sy__extent){m->offset + value, m->n - value};
        f->checksum = m->checksum;
    }
    return SY_OK;
}

sy_status sy__created_extents(int fd, const char *path, sy__extent *value, sy__extent *checksum)
{
    sy_status st = SY_OK;
    sy__h5_file file;
    found f = {0};
    SY_TRY(sy__h5_attach(fd, path, &file));
    SY_TRY(sy__h5_messages(&file, file.root, take_message, &f));
    *value = f.value;
    *checksum = f.checksum;
cleanup:
    return st;
}
