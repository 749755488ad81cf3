/* What make_fixtures.py wrote about one model: a Hugging Face folder, settings of a run, and what
   an independent implementation computed. Nothing here is collective. */
#ifndef SY_TESTS_PARITY_FIXTURE_H
#define SY_TESTS_PARITY_FIXTURE_H

#include "checkpoint/safetensors.h"

enum { FIXTURE_PATH = 512, FIXTURE_SETTINGS = 24 };

typedef struct fixture {
    const char *name; /* borrowed: of the folder */
    char dir[2 * FIXTURE_PATH];
    sy_st_set *expected;
    char *text; /* of the file `settings`, cut into lines */
    const char *setting[FIXTURE_SETTINGS];
    int32_t n_settings;
} fixture;

/* Folders of root that hold a fixture, by name; each freed with free, as is the list. */
char **fixture_names(const char *root, int32_t *n);

sy_status fixture_open(const char *root, const char *name, fixture *out);
void fixture_close(fixture *f);
/* The value of a setting KEY=VALUE, or "". */
const char *fixture_setting(const fixture *f, const char *key);

/* A tensor as doubles, freed with sy_free; NULL where there is none. *shape [3] gets its extents, 1
   beyond its dimensions. */
double *fixture_read(const fixture *f, const char *name, int64_t shape[3]);

#endif
