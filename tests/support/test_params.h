/* A small table of parameters with everything that a real one has, bound on any mesh of the test's
   world, and a checkpoint file in memory. */
#ifndef SY_TESTS_TEST_PARAMS_H
#define SY_TESTS_TEST_PARAMS_H

#include "parallel/param.h"
#include "tests/support/mpi_assert.h"

enum { TEST_E = 12, TEST_SEED = 77, TEST_MAX_LAYOUTS = 24 };

typedef struct test_layout {
    int32_t ep, zero;
} test_layout;

/* The layouts of this world: every ep that divides ranks and experts, with zero 0, 1 and 2. */
int32_t test_layouts(test_layout out[TEST_MAX_LAYOUTS]);

typedef struct test_model {
    sy_device *dev;
    sy_stream *compute, *comm;
    sy_mesh *mesh;
    sy_params *params;
} test_model;

/* Collective. compute: SY_N_DTYPES for the device's wide type. freeze: a pattern, or NULL. Asserts.
 */
void test_model_open(test_model *model, test_layout layout, sy_dtype compute, const char *freeze);
void test_model_close(test_model *model);
/* The declarations alone. */
sy_status test_model_declare(sy_params *params);

/* A field as it would stand in a file: values as doubles, and how often each was written. */
typedef struct test_field {
    char name[256];
    sy_dtype dtype;
    int64_t n;
    double *data;
    int32_t *n_writes, *n_reads;
} test_field;

typedef struct test_file {
    test_field field[64];
    int32_t n, cursor;
    sy_stream *stream;
    int64_t n_wrong; /* elements read that are not as in the file, names out of order */
} test_file;

/* Emit functions; `to` is a test_file. write: what is marked to be written goes into the file
   (begin with cursor 0). check: what is held must be as the file says. load: fill from the file. */
sy_status test_file_write(void *to, const sy_field *field);
sy_status test_file_check(void *to, const sy_field *field);
sy_status test_file_load(void *to, const sy_field *field);
/* Collective: put together what all ranks wrote. False where an element was not written exactly
 * once, or names differ. */
bool test_file_merge(test_file *file, sy_comm *host);
void test_file_free(test_file *file);

/* The element that initialisation has to give, computed from its name and place alone. */
double test_initial(const char *piece_name, int64_t index);

#endif
