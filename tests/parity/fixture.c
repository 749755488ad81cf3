#include "tests/parity/fixture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "tests/support/scratch.h"

static int is_folder(const struct dirent *e)
{
    return e->d_name[0] != '.' && e->d_type == DT_DIR;
}

char **fixture_names(const char *root, int32_t *n)
{
    struct dirent **entry = NULL;
    int found = scandir(root, &entry, is_folder, alphasort);
    char **name = calloc((size_t)(found > 0 ? found : 1), sizeof *name);
    *n = 0;
    for (int i = 0; i < found; i++) {
        name[(*n)++] = strdup(entry[i]->d_name);
        free(entry[i]);
    }
    free(entry);
    return name;
}

static sy_status read_settings(fixture *f)
{
    sy_status st = SY_OK;
    char path[3 * FIXTURE_PATH];
    snprintf(path, sizeof path, "%s/settings", f->dir);
    f->text = scratch_read(path);
    SY_REQUIRE(f->text != NULL, SY_ERR_USAGE, "cannot read '%s'", path);
    for (char *rest = f->text, *line = strtok_r(rest, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        SY_REQUIRE(f->n_settings < FIXTURE_SETTINGS, SY_ERR_USAGE, "'%s' is too long", path);
        f->setting[f->n_settings++] = line;
    }
cleanup:
    return st;
}

sy_status fixture_open(const char *root, const char *name, fixture *out)
{
    sy_status st = SY_OK;
    fixture f = {.name = name};
    char path[3 * FIXTURE_PATH];
    snprintf(f.dir, sizeof f.dir, "%s/%s", root, name);
    snprintf(path, sizeof path, "%s/expected.safetensors", f.dir);
    SY_TRY(sy_st_open(path, &f.expected));
    SY_TRY(read_settings(&f));
    *out = f;
    f = (fixture){0};
cleanup:
    fixture_close(&f);
    return st;
}

void fixture_close(fixture *f)
{
    sy_st_close(&f->expected);
    free(f->text);
    *f = (fixture){0};
}

const char *fixture_setting(const fixture *f, const char *key)
{
    size_t n = strlen(key);
    for (int32_t i = 0; i < f->n_settings; i++) {
        if (strncmp(f->setting[i], key, n) == 0 && f->setting[i][n] == '=') {
            return f->setting[i] + n + 1;
        }
    }
    return "";
}

double *fixture_read(const fixture *f, const char *name, int64_t shape[3])
{
    const sy_st_tensor *t = sy_st_find(f->expected, name);
    double *out = NULL;
    void *aligned = NULL;
    int64_t n = 1;
    if (t == NULL || t->n_dim > 3) {
        return NULL;
    }
    for (int32_t d = 0; d < 3; d++) {
        shape[d] = d < t->n_dim ? t->shape[d] : 1;
        n *= shape[d];
    }
    if (sy_alloc(n, sizeof *out, (void **)&out) != SY_OK ||
        sy_alloc(t->bytes, 1, &aligned) != SY_OK) {
        abort();
    }
    memcpy(aligned, t->data, (size_t)t->bytes); /* the file aligns nothing */
    if (t->dtype == SY_I32) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = ((const int32_t *)aligned)[i];
        }
    } else {
        sy_convert(SY_F64, out, t->dtype, aligned, n);
    }
    sy_free(&aligned);
    return out;
}
