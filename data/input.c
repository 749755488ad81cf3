/* Plain files by stdio, .gz by zlib, .zst by zstd. */
#include "data/input_impl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "core/alloc.h"

enum { PACKED_BYTES = 1 << 17 };

struct sy__input {
    char *path;
    FILE *stream; /* of a plain or a .zst file */
    gzFile gz;
    ZSTD_DStream *zst;
    char *packed; /* what zst has yet to read */
    ZSTD_inBuffer in;
    size_t frame; /* 0: at the end of a frame */
    int64_t n_done;
};

static bool ends_with(const char *path, int64_t n, const char *end)
{
    const int64_t n_end = (int64_t)strlen(end);
    return n > n_end && memcmp(path + n - n_end, end, (size_t)n_end) == 0;
}

bool sy__input_is_jsonl(const char *path)
{
    int64_t n = (int64_t)strlen(path);
    n -= ends_with(path, n, ".gz") ? 3 : ends_with(path, n, ".zst") ? 4 : 0;
    return ends_with(path, n, ".jsonl");
}

sy_status sy__input_open(const char *path, sy__input **out)
{
    sy_status st = SY_OK;
    sy__input *input = NULL;
    const int64_t n = (int64_t)strlen(path);
    SY_TRY(sy_alloc(1, sizeof *input, (void **)&input));
    SY_TRY(sy_strdup(path, &input->path));
    if (ends_with(path, n, ".gz")) {
        input->gz = gzopen(path, "rb");
    } else {
        input->stream = fopen(path, "rb");
    }
    SY_REQUIRE(input->gz != NULL || input->stream != NULL, SY_ERR_USAGE,
               "cannot read input '%s': %s", path, strerror(errno));
    if (input->gz != NULL) {
        (void)gzbuffer(input->gz, PACKED_BYTES);
        SY_REQUIRE(!gzdirect(input->gz), SY_ERR_USAGE, "input '%s' is not in the format of gzip",
                   path);
    } else if (ends_with(path, n, ".zst")) {
        input->zst = ZSTD_createDStream();
        SY_REQUIRE(input->zst != NULL, SY_ERR_MEMORY, "out of memory for input '%s'", path);
        SY_TRY(sy_alloc(PACKED_BYTES, 1, (void **)&input->packed));
        input->in.src = input->packed;
        input->frame = 1;
    }
    *out = input;
    input = NULL;

cleanup:
    sy__input_close(&input);
    return st;
}

void sy__input_close(sy__input **input)
{
    sy__input *i = *input;
    if (i == NULL) {
        return;
    }
    if (i->stream != NULL) {
        (void)fclose(i->stream); /* only read from */
    }
    if (i->gz != NULL) {
        (void)gzclose_r(i->gz);
    }
    ZSTD_freeDStream(i->zst);
    sy_free(&i->packed);
    sy_free(&i->path);
    sy_free(input);
}

static sy_status read_plain(sy__input *input, char *bytes, int64_t n, int64_t *got)
{
    sy_status st = SY_OK;
    *got = (int64_t)fread(bytes, 1, (size_t)n, input->stream);
    SY_REQUIRE(!ferror(input->stream), SY_ERR_IO, "cannot read input '%s': %s", input->path,
               strerror(errno));
    input->n_done += *got;

cleanup:
    return st;
}

static sy_status read_gz(sy__input *input, char *bytes, int64_t n, int64_t *got)
{
    sy_status st = SY_OK;
    int error = Z_OK;
    *got = 0;
    for (int some = 1; *got < n && some > 0; *got += some) {
        const int64_t left = n - *got;
        some = gzread(input->gz, bytes + *got, (unsigned)(left < 1 << 30 ? left : 1 << 30));
        const char *why = gzerror(input->gz, &error);
        SY_REQUIRE(some >= 0 && (error == Z_OK || error == Z_STREAM_END), SY_ERR_USAGE,
                   "input '%s' is damaged or ends early: %s", input->path, why);
    }
    input->n_done = gzoffset(input->gz);

cleanup:
    return st;
}

static sy_status read_zst(sy__input *input, char *bytes, int64_t n, int64_t *got)
{
    sy_status st = SY_OK;
    ZSTD_outBuffer to = {.dst = bytes, .size = (size_t)n};
    while (to.pos < to.size) {
        if (input->in.pos == input->in.size) {
            int64_t more = 0;
            SY_TRY(read_plain(input, input->packed, PACKED_BYTES, &more));
            input->in.pos = 0;
            input->in.size = (size_t)more;
            if (more == 0) {
                SY_REQUIRE(input->frame == 0, SY_ERR_USAGE, "input '%s' ends early", input->path);
                break;
            }
        }
        input->frame = ZSTD_decompressStream(input->zst, &to, &input->in);
        SY_REQUIRE(!ZSTD_isError(input->frame), SY_ERR_USAGE,
                   "input '%s' is damaged or not in the format of zstd: %s", input->path,
                   ZSTD_getErrorName(input->frame));
    }
    *got = (int64_t)to.pos;

cleanup:
    return st;
}

sy_status sy__input_read(sy__input *input, char *bytes, int64_t n, int64_t *got)
{
    return input->gz != NULL    ? read_gz(input, bytes, n, got)
           : input->zst != NULL ? read_zst(input, bytes, n, got)
                                : read_plain(input, bytes, n, got);
}

sy_status sy__input_skip(sy__input *input, int64_t n)
{
    sy_status st = SY_OK;
    char *room = NULL;
    int64_t left = n, got = 0;
    if (input->gz == NULL && input->zst == NULL) {
        SY_REQUIRE(fseeko(input->stream, n, SEEK_CUR) == 0, SY_ERR_IO, "cannot read input '%s': %s",
                   input->path, strerror(errno));
        input->n_done += n;
        return SY_OK;
    }
    SY_TRY(sy_alloc(PACKED_BYTES, 1, (void **)&room));
    for (; left > 0; left -= got) {
        SY_TRY(sy__input_read(input, room, left < PACKED_BYTES ? left : PACKED_BYTES, &got));
        SY_REQUIRE(got > 0, SY_ERR_USAGE, "input '%s' ends early", input->path);
    }

cleanup:
    sy_free(&room);
    return st;
}

int64_t sy__input_position(const sy__input *input)
{
    return input->n_done;
}
