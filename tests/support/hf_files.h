/* Files for the tests of upcycle/hf: read whole, and a config.json all the way to settings.
   HF_CONFIGS is tests/fuzz/corpus/hf_config: keys and values of released models. */
#ifndef SY_TESTS_SUPPORT_HF_FILES_H
#define SY_TESTS_SUPPORT_HF_FILES_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "train/train_config.h"
#include "upcycle/hf.h"

/* FOLDER/NAME, terminated; freed with free. */
static inline char *hf_slurp(const char *folder, const char *name, size_t *n)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        fail_msg("there is no %s", path);
        return NULL;
    }
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *n = (size_t)ftell(f);
    rewind(f);
    char *text = calloc(1, *n + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, *n, f), *n);
    fclose(f);
    return text;
}

/* Settings of a config.json's text. */
static inline sy_hf_arch hf_settings(const char *json, sy_run_settings *out)
{
    sy_hf_arch arch = SY_N_HF_ARCHS;
    char *yaml = NULL;
    if (sy_hf_config_read("config.json", json, strlen(json), &arch, &yaml) != SY_OK ||
        sy_run_settings_parse(yaml, strlen(yaml), "yaml", NULL, 0, out) != SY_OK) {
        fail_msg("%s\n%s\n%s", sy_error_message(), json, yaml != NULL ? yaml : "");
    }
    sy_free(&yaml);
    return arch;
}

/* Settings of a file of the corpus. */
static inline void hf_read_file(const char *name, sy_run_settings *s)
{
    size_t n;
    char *json = hf_slurp(HF_CONFIGS, name, &n);
    hf_settings(json, s);
    free(json);
}

/* The text of a file with one key set; NULL: removed. Freed with free. */
static inline char *hf_with(const char *name, const char *key, const char *value)
{
    size_t n;
    char *text = hf_slurp(HF_CONFIGS, name, &n);
    json_t *root = json_loads(text, 0, NULL);
    free(text);
    if (value == NULL) {
        assert_int_equal(json_object_del(root, key), 0);
    } else {
        json_t *parsed = json_loads(value, JSON_DECODE_ANY, NULL);
        assert_non_null(parsed);
        assert_int_equal(json_object_set_new(root, key, parsed), 0);
    }
    text = json_dumps(root, 0);
    json_decref(root);
    return text;
}

#endif
