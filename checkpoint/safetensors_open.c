/* A file, or the files of a folder, mapped and read as one set. The index says which tensor is in
   which shard; every shard is opened once, in the order of its name. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/safetensors_impl.h"
#include "core/alloc.h"
#include "core/log.h"

/* Bytes of a file; map NULL where it is empty. */
typedef struct mapping {
    void *map;
    size_t bytes;
} mapping;

static void unmap(mapping *m)
{
    if (m->map) {
        munmap(m->map, m->bytes);
    }
    *m = (mapping){0};
}

static sy_status map_file(const char *path, mapping *out)
{
    sy_status st = SY_OK;
    struct stat info;
    void *map = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* never waits at a pipe */
    SY_REQUIRE(fd >= 0 || (errno != ENOENT && errno != ENOTDIR), SY_ERR_USAGE, "there is no '%s'",
               path);
    SY_REQUIRE(fd >= 0, SY_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    SY_REQUIRE(fstat(fd, &info) == 0, SY_ERR_IO, "cannot examine '%s': %s", path, strerror(errno));
    SY_REQUIRE(S_ISREG(info.st_mode), SY_ERR_USAGE, "'%s' is not a file", path);
    if (info.st_size > 0) {
        map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        SY_REQUIRE(map != MAP_FAILED, SY_ERR_IO, "cannot map '%s': %s", path, strerror(errno));
    }
    *out = (mapping){.map = map, .bytes = (size_t)info.st_size};
cleanup:
    if (fd >= 0) {
        close(fd);
    }
    return st;
}

static sy_status open_file(const char *path, sy_st_set **out)
{
    sy_status st = SY_OK;
    mapping file = {0};
    SY_TRY(map_file(path, &file));
    SY_TRY(sy_st_parse(path, file.map, (int64_t)file.bytes, out));
    sy__st_storage *storage = (*out)->self;
    storage->map = file.map;
    storage->map_bytes = file.bytes;
    file = (mapping){0};
cleanup:
    unmap(&file);
    return st;
}

/* ---- the index ---- */

typedef struct listed {
    const char *name, *file;
} listed;

typedef struct shard_index {
    const char *path;
    listed *item;
    int64_t n, capacity;
    char *text; /* of the items */
    bool has_map;
} shard_index;

static void index_free(shard_index *ix)
{
    sy_free(&ix->text);
    sy_free(&ix->item);
}

/* Of a file beside the index. */
static bool is_plain_name(const char *name)
{
    return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           sy__st_is_printable(name);
}

static sy_status read_listed(void *self, sy__st_json *json, const char *key)
{
    sy_status st = SY_OK;
    shard_index *ix = self;
    json_t *value = NULL;
    char tensor[SY__ST_SHOWN], file[SY__ST_SHOWN];
    SY_TRY(sy__st_json_value(json, &value));
    SY_REQUIRE(json_is_string(value), SY_ERR_USAGE,
               "'%s': the file of tensor '%s' in \"weight_map\" is not a text", json->path,
               sy__st_show(key, tensor));
    SY_REQUIRE(
        is_plain_name(json_string_value(value)), SY_ERR_USAGE,
        "'%s': tensor '%s' is said to be in '%s', which is not the name of a file beside the "
        "index",
        json->path, sy__st_show(key, tensor), sy__st_show(json_string_value(value), file));
    if (ix->n == ix->capacity) {
        const int64_t capacity = ix->capacity > 0 ? 2 * ix->capacity : 64;
        SY_TRY(sy_realloc(capacity, sizeof *ix->item, (void **)&ix->item));
        ix->capacity = capacity;
    }
    ix->item[ix->n++] = (listed){.name = key, .file = sy__st_json_keep(json, value)};
cleanup:
    json_decref(value);
    return st;
}

static sy_status read_index_member(void *self, sy__st_json *json, const char *key)
{
    sy_status st = SY_OK;
    shard_index *ix = self;
    json_t *value = NULL;
    if (strcmp(key, "weight_map") == 0) {
        ix->has_map = true;
        SY_TRY(sy__st_json_object(json, read_listed, ix));
    } else { /* "metadata": its total_size is what the shards say anyway */
        SY_TRY(sy__st_json_value(json, &value));
    }
cleanup:
    json_decref(value);
    return st;
}

static int by_file(const void *a, const void *b)
{
    const listed *x = a, *y = b;
    const int order = strcmp(x->file, y->file);
    return order != 0 ? order : strcmp(x->name, y->name);
}

/* The items by file, then by name. */
static sy_status read_index(const char *path, shard_index *out)
{
    sy_status st = SY_OK;
    mapping file = {0};
    shard_index ix = {.path = path};
    sy__st_json json = {0};
    SY_TRY(map_file(path, &file));
    SY_REQUIRE(file.bytes <= SY__ST_JSON_MAX, SY_ERR_USAGE,
               "'%s' has %zu bytes, above the %d that an index may have", path, file.bytes,
               SY__ST_JSON_MAX);
    SY_TRY(sy__st_json_begin(path, "index", file.map ? file.map : "", (int64_t)file.bytes, &json));
    SY_TRY(sy__st_json_object(&json, read_index_member, &ix));
    SY_TRY(sy__st_json_end(&json));
    SY_REQUIRE(ix.has_map, SY_ERR_USAGE, "'%s' has no \"weight_map\"", path);
    if (ix.n > 0) {
        qsort(ix.item, (size_t)ix.n, sizeof *ix.item, by_file);
    }
    ix.text = json.kept;
    json.kept = NULL;
    *out = ix;
    ix = (shard_index){0};
cleanup:
    index_free(&ix);
    sy__st_json_free(&json);
    unmap(&file);
    return st;
}

/* ---- the shards ---- */

/* Where the shard's items end. */
static int64_t end_of_shard(const shard_index *ix, int64_t first)
{
    int64_t i = first;
    while (i < ix->n && strcmp(ix->item[i].file, ix->item[first].file) == 0) {
        i++;
    }
    return i;
}

/* The tensors of a shard that the index places there: both are in order of their names. */
static sy_status pick(const shard_index *ix, int64_t first, int64_t end, const sy_st_set *shard,
                      sy_st_set *to)
{
    sy_status st = SY_OK;
    char shown[SY__ST_SHOWN];
    const char *extra = NULL;
    int64_t n_extra = 0, i = first;
    for (int64_t k = 0; k < shard->n; k++) {
        const sy_st_tensor *t = &shard->tensor[k];
        if (i < end && strcmp(ix->item[i].name, t->name) == 0) {
            to->tensor[to->n++] = *t;
            to->bytes += t->bytes;
            i++;
        } else if (i == end || strcmp(t->name, ix->item[i].name) < 0) {
            extra = n_extra++ == 0 ? t->name : extra;
        } else {
            break; /* past an item: the shard lacks it */
        }
    }
    SY_REQUIRE(i == end, SY_ERR_USAGE, "'%s' places tensor '%s' in '%s', which does not have it",
               ix->path, sy__st_show(ix->item[i].name, shown), ix->item[i].file);
    if (n_extra > 0) {
        sy_info("'%s' does not list %" PRId64 " of the tensors in '%s' (the first is '%s'): they "
                "are left out",
                ix->path, n_extra, ix->item[first].file, sy__st_show(extra, shown));
    }
cleanup:
    return st;
}

static sy_status open_shard(const char *folder, const shard_index *ix, int64_t first,
                            sy_st_set **out)
{
    sy_status st = SY_OK;
    char *path = NULL, shown[SY__ST_SHOWN];
    SY_TRY(sy_asprintf(&path, "%s/%s", folder, ix->item[first].file));
    SY_REQUIRE(access(path, F_OK) == 0, SY_ERR_USAGE,
               "'%s' places tensor '%s' in '%s', which is missing: copy or download it", ix->path,
               sy__st_show(ix->item[first].name, shown), ix->item[first].file);
    SY_TRY(open_file(path, out));
cleanup:
    sy_free(&path);
    return st;
}

static int tensor_by_name(const void *a, const void *b)
{
    return strcmp(((const sy_st_tensor *)a)->name, ((const sy_st_tensor *)b)->name);
}

static sy_status open_shards(const char *folder, const char *index_path, sy_st_set **out)
{
    sy_status st = SY_OK;
    shard_index ix = {0};
    sy_st_set *set = NULL;
    SY_TRY(read_index(index_path, &ix));
    SY_TRY(sy__st_set_create(&set));
    SY_TRY(sy_alloc(ix.n, sizeof *set->tensor, (void **)&set->tensor));
    sy__st_storage *storage = set->self;
    int64_t n_shards = 0;
    for (int64_t i = 0; i < ix.n; i = end_of_shard(&ix, i)) {
        n_shards++;
    }
    SY_TRY(sy_alloc(n_shards, sizeof(sy_st_set *), (void **)&storage->part));
    for (int64_t i = 0, end = 0; i < ix.n; i = end) {
        sy_st_set **shard = &storage->part[storage->n_parts];
        end = end_of_shard(&ix, i);
        SY_TRY(open_shard(folder, &ix, i, shard));
        storage->n_parts++;
        SY_TRY(pick(&ix, i, end, *shard, set));
    }
    if (set->n > 0) {
        qsort(set->tensor, (size_t)set->n, sizeof *set->tensor, tensor_by_name);
    }
    *out = set;
    set = NULL;
cleanup:
    sy_st_close(&set);
    index_free(&ix);
    return st;
}

/* ---- the folder ---- */

static bool is_safetensors(const char *name)
{
    static const char ending[] = ".safetensors";
    const size_t n = strlen(name), n_ending = sizeof ending - 1;
    return name[0] != '.' && n > n_ending && strcmp(name + n - n_ending, ending) == 0;
}

/* The path of the only *.safetensors in it. */
static sy_status find_only(const char *folder, char **out)
{
    sy_status st = SY_OK;
    char *path = NULL, shown[SY__ST_SHOWN];
    DIR *dir = opendir(folder);
    SY_REQUIRE(dir, SY_ERR_IO, "cannot list folder '%s': %s", folder, strerror(errno));
    for (const struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        if (!is_safetensors(e->d_name)) {
            continue;
        }
        SY_REQUIRE(!path, SY_ERR_USAGE,
                   "folder '%s' has several files of tensors ('%s' is one) and no " SY__ST_INDEX
                   " that tells which belong together",
                   folder, sy__st_show(e->d_name, shown));
        SY_TRY(sy_asprintf(&path, "%s/%s", folder, e->d_name));
    }
    SY_REQUIRE(path, SY_ERR_USAGE, "folder '%s' has no " SY__ST_FILE " and no " SY__ST_INDEX,
               folder);
    *out = path;
    path = NULL;
cleanup:
    if (dir) {
        closedir(dir);
    }
    sy_free(&path);
    return st;
}

static sy_status open_folder(const char *folder, sy_st_set **out)
{
    sy_status st = SY_OK;
    char *index_path = NULL, *path = NULL;
    SY_TRY(sy_asprintf(&index_path, "%s/" SY__ST_INDEX, folder));
    SY_TRY(sy_asprintf(&path, "%s/" SY__ST_FILE, folder));
    if (access(index_path, F_OK) == 0) {
        SY_TRY(open_shards(folder, index_path, out));
    } else {
        if (access(path, F_OK) != 0) {
            sy_free(&path);
            SY_TRY(find_only(folder, &path));
        }
        SY_TRY(open_file(path, out));
    }
cleanup:
    sy_free(&path);
    sy_free(&index_path);
    return st;
}

sy_status sy_st_open(const char *path, sy_st_set **out)
{
    struct stat info;
    bool is_folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    return is_folder ? open_folder(path, out) : open_file(path, out);
}
