/* Devices: opening by name, memory and its ledger, streams as every backend has them, and devices
 * that only measure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/ops.h"
#include "core/alloc.h"

/* The sanitizers end the process on an impossible size unless told to answer as calloc does. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static sy_device *open_device(const char *backend, bool dry)
{
    sy_device *dev = NULL;
    sy_device_spec spec = {.backend = backend, .threads = 1, .dry = dry};
    assert_int_equal(sy_device_open(&spec, &dev), SY_OK);
    return dev;
}

static sy_stream *open_stream(sy_device *dev)
{
    sy_stream *stream = NULL;
    assert_int_equal(sy_stream_create(dev, "test", &stream), SY_OK);
    return stream;
}

static void expect_open_error(const char *backend, sy_status status, const char *part)
{
    sy_device *dev = NULL;
    sy_device_spec spec = {.backend = backend};
    sy_error_clear();
    assert_int_equal(sy_device_open(&spec, &dev), status);
    assert_null(dev);
    assert_non_null(strstr(sy_error_message(), part));
    sy_error_clear();
}

/* ---- opening ---- */

static void open_misspelt_name_names_the_nearest(void **state)
{
    (void)state;
    expect_open_error("cpu_chek", SY_ERR_USAGE, "'cpu_check'");
    expect_open_error("something else", SY_ERR_USAGE, "auto, cpu, cpu_check, ref, cuda");
}

static void open_backend_that_was_not_built_names_the_option(void **state)
{
    (void)state;
    for (const char *const *name = sy_backend_names(); *name; name++) {
        if (strcmp(*name, "cuda") == 0) {
            skip();
        }
    }
    expect_open_error("cuda", SY_ERR_UNSUPPORTED,
                      "backend 'cuda' was not built; reconfigure with -Dcuda=enabled");
}

static void open_every_built_name_gives_that_backend(void **state)
{
    (void)state;
    for (const char *const *name = sy_backend_names(); *name; name++) {
        sy_device *dev = NULL;
        sy_device_spec spec = {.backend = *name, .threads = 1};
        const sy_status st = sy_device_open(&spec, &dev);
        if (st == SY_ERR_UNSUPPORTED && strcmp(*name, "cuda") == 0) {
            assert_non_null(strstr(sy_error_message(), "device.backend: cpu")); /* the way out */
            sy_error_clear();
            dev = open_device(*name, true); /* no GPU is needed to measure */
        } else {
            assert_int_equal(st, SY_OK);
        }
        assert_string_equal(dev->name, *name);
        assert_int_equal(dev->wide, strcmp(*name, "ref") == 0 ? SY_F64 : SY_F32);
        assert_true(dev->n_threads >= 1 && dev->row_multiple >= 1);
        sy_device_close(&dev);
        assert_null(dev);
    }
}

static void open_config_name_of_check_gives_check(void **state)
{
    (void)state;
    sy_device *dev = open_device("cpu_check", false);
    assert_string_equal(dev->name, "check");
    sy_device_close(&dev);
}

/* ---- memory ---- */

static void alloc_any_size_is_aligned_and_zero(void **state)
{
    const int64_t sizes[] = {0, 1, 63, 64, 4096, 4097, 100000};
    sy_device *dev = open_device(*state, false);
    for (int32_t round = 0; round < 2; round++) { /* the second round gets used memory back */
        void *ptr[7];
        for (int32_t i = 0; i < 7; i++) {
            assert_int_equal(sy_device_alloc(dev, sizes[i], SY_MEM_OTHER, &ptr[i]), SY_OK);
            assert_non_null(ptr[i]);
            assert_int_equal((uintptr_t)ptr[i] % 64, 0);
            char *view = sy_device_host_view(dev, ptr[i]);
            for (int64_t b = 0; b < sizes[i]; b++) {
                assert_int_equal(view[b], 0);
            }
            memset(view, 0x55, (size_t)sizes[i]);
        }
        for (int32_t i = 0; i < 7; i++) {
            sy_device_free(dev, &ptr[i]);
            assert_null(ptr[i]);
        }
    }
    sy_device_close(&dev);
}

static void ledger_follows_blocks_by_tag(void **state)
{
    sy_device *dev = open_device(*state, false);
    void *a = NULL, *b = NULL, *c = NULL;
    assert_int_equal(sy_device_alloc(dev, 1000, SY_MEM_PARAMS, &a), SY_OK);
    assert_int_equal(sy_device_alloc(dev, 500, SY_MEM_GRADS, &b), SY_OK);
    sy_device_free(dev, &a);
    assert_int_equal(sy_device_alloc(dev, 200, SY_MEM_PARAMS, &c), SY_OK);
    const sy_ledger *ledger = &dev->ledger;
    assert_int_equal(ledger->now[SY_MEM_PARAMS], 200);
    assert_int_equal(ledger->peak[SY_MEM_PARAMS], 1000);
    assert_int_equal(ledger->now[SY_MEM_GRADS], 500);
    assert_int_equal(ledger->total_now, 700);
    assert_int_equal(ledger->total_peak, 1500);
    assert_int_equal(ledger->n_allocs, 3);
    sy_device_free(dev, &b);
    sy_device_free(dev, &b); /* NULL by now: nothing happens */
    sy_device_free(dev, &c);
    assert_int_equal(ledger->total_now, 0);
    sy_device_close(&dev);
}

static void alloc_more_than_there_is_names_tag_and_bytes(void **state)
{
    sy_device *dev = open_device(*state, false);
    void *ptr = NULL;
    assert_int_equal(sy_device_alloc(dev, INT64_C(1) << 55, SY_MEM_OPTIM, &ptr), SY_ERR_MEMORY);
    assert_null(ptr);
    assert_non_null(strstr(sy_error_message(), "optim"));
    assert_non_null(strstr(sy_error_message(), "36028797018963968"));
    assert_int_equal(dev->ledger.total_now, 0);
    sy_error_clear();
    sy_device_close(&dev);
}

static void close_with_blocks_left_frees_them(void **state)
{
    int64_t live = sy_alloc_live();
    sy_device *dev = open_device(*state, false);
    void *ptr = NULL;
    assert_int_equal(sy_device_alloc(dev, 100, SY_MEM_OTHER, &ptr), SY_OK);
    sy_device_close(&dev);
    assert_int_equal(sy_alloc_live(), live);
}

/* ---- streams ---- */

static void copies_round_trip_between_host_and_device(void **state)
{
    sy_device *dev = open_device(*state, false);
    sy_stream *stream = open_stream(dev);
    char out[300], in[300], *a = NULL, *b = NULL;
    for (int32_t i = 0; i < 300; i++) {
        in[i] = (char)i;
    }
    assert_int_equal(sy_device_alloc(dev, 300, SY_MEM_OTHER, (void **)&a), SY_OK);
    assert_int_equal(sy_device_alloc(dev, 300, SY_MEM_OTHER, (void **)&b), SY_OK);
    assert_int_equal(sy_copy_h2d(stream, a, in, 300), SY_OK);
    assert_int_equal(sy_copy_d2d(stream, b, a, 300), SY_OK);
    assert_int_equal(sy_zero(stream, b + 100, 50), SY_OK);
    assert_int_equal(sy_copy_d2h(stream, out, b, 300), SY_OK);
    assert_int_equal(sy_copy_d2h(stream, out, b, 0), SY_OK);
    assert_int_equal(sy_stream_sync(stream), SY_OK);
    memset(in + 100, 0, 50);
    assert_memory_equal(out, in, 300);
    assert_int_equal(sy_copy_d2h(stream, out, b, -1), SY_ERR_INTERNAL);
    sy_error_clear();
    sy_stream_destroy(&stream);
    sy_device_close(&dev);
}

typedef struct append_args {
    char *text; /* host memory */
    char letter;
} append_args;

static sy_status append(sy_stream *stream, const void *args)
{
    const append_args *a = args;
    size_t n = strlen(a->text);
    a->text[n] = a->letter;
    a->text[n + 1] = '\0';
    /* The workspace is there for whatever runs on the stream. */
    memset(sy_stream_workspace(stream), a->letter, SY_WORKSPACE_BYTES);
    return SY_OK;
}

static void calls_run_in_order_with_copied_args(void **state)
{
    sy_device *dev = open_device(*state, false);
    sy_stream *stream = open_stream(dev);
    char text[16] = "";
    append_args args = {.text = text, .letter = 'a'};
    for (int32_t i = 0; i < 4; i++, args.letter++) {
        assert_int_equal(sy_stream_call(stream, append, &args, sizeof args), SY_OK);
    }
    assert_int_equal(sy_stream_sync(stream), SY_OK);
    assert_string_equal(text, "abcd");
    assert_int_equal(sy_stream_call(stream, append, &args, SY_CALL_BYTES + 1), SY_ERR_INTERNAL);
    sy_error_clear();
    sy_stream_destroy(&stream);
    sy_device_close(&dev);
}

static void workspace_belongs_to_one_stream_and_the_ledger(void **state)
{
    sy_device *dev = open_device(*state, false);
    sy_stream *a = open_stream(dev), *b = open_stream(dev);
    char *of_a = sy_stream_workspace(a), *of_b = sy_stream_workspace(b);
    assert_true(of_a + SY_WORKSPACE_BYTES <= of_b || of_b + SY_WORKSPACE_BYTES <= of_a);
    assert_int_equal((uintptr_t)of_a % 64, 0);
    assert_int_equal(dev->ledger.now[SY_MEM_WORKSPACE], 2 * SY_WORKSPACE_BYTES);
    sy_stream_destroy(&a);
    sy_stream_destroy(&b);
    assert_int_equal(dev->ledger.now[SY_MEM_WORKSPACE], 0);
    sy_device_close(&dev);
}

static void waits_of_the_host_are_counted(void **state)
{
    sy_device *dev = open_device(*state, false);
    sy_stream *stream = open_stream(dev);
    sy_event *event = NULL;
    assert_int_equal(sy_event_create(dev, &event), SY_OK);
    assert_true(sy_event_done(event)); /* never recorded */
    assert_int_equal(sy_event_record(event, stream), SY_OK);
    assert_int_equal(sy_stream_wait(stream, event), SY_OK);
    assert_int_equal(dev->ledger.n_host_waits, 0);
    assert_int_equal(sy_event_sync(event), SY_OK);
    assert_int_equal(sy_stream_sync(stream), SY_OK);
    assert_int_equal(dev->ledger.n_host_waits, 2);
    assert_true(sy_event_done(event));
    sy_event_destroy(&event);
    sy_stream_destroy(&stream);
    sy_device_close(&dev);
}

static void warm_stream_allocates_nothing(void **state)
{
    sy_device *dev = open_device(*state, false);
    sy_stream *stream = open_stream(dev);
    float *x = NULL;
    assert_int_equal(sy_device_alloc(dev, 4000, SY_MEM_OTHER, (void **)&x), SY_OK);
    sy_fill_args args = {.y = sy_tensor_1d(x, dev->wide, 400), .value = 1};
    int64_t on_device = 0, on_host = 0;
    for (int32_t i = 0; i < 3000; i++) { /* more than a stream of check holds */
        if (i == 10) {
            on_device = dev->ledger.n_allocs;
            on_host = sy_alloc_total();
        }
        assert_int_equal(sy_fill(stream, &args), SY_OK);
    }
    assert_int_equal(sy_stream_sync(stream), SY_OK);
    assert_int_equal(dev->ledger.n_allocs, on_device);
    assert_int_equal(sy_alloc_total(), on_host);
    sy_stream_destroy(&stream);
    sy_device_close(&dev);
}

static sy_status fail_with_message(sy_stream *stream, const void *args)
{
    (void)stream, (void)args;
    return sy_error(SY_ERR_IO, "a call that fails on purpose");
}

static void failing_call_is_reported_by_call_or_sync(void **state)
{
    sy_device *dev = open_device(*state, false);
    sy_stream *stream = open_stream(dev);
    sy_error_clear();
    sy_status st = sy_stream_call(stream, fail_with_message, NULL, 0);
    st = st != SY_OK ? st : sy_stream_sync(stream);
    assert_int_equal(st, SY_ERR_IO);
    assert_string_equal(sy_error_message(), "a call that fails on purpose");
    sy_error_clear();
    assert_int_equal(sy_stream_sync(stream), SY_OK); /* told once */
    sy_stream_destroy(&stream);
    sy_device_close(&dev);
}

/* ---- ops ---- */

static void describe_add_lists_operands_and_roles(void **state)
{
    (void)state;
    const sy_op_info *info = sy_op_describe(SY_OP_add);
    assert_string_equal(info->name, "add");
    assert_int_equal(info->args_bytes, sizeof(sy_add_args));
    assert_int_equal(info->n_operands, 3);
    assert_string_equal(info->operands[2].name, "y");
    assert_int_equal(info->operands[2].role, SY_ROLE_OUT);
    assert_int_equal(info->operands[2].offset, offsetof(sy_add_args, y));
    info = sy_op_describe(SY_OP_gemm);
    assert_int_equal(info->operands[2].role, SY_ROLE_OUT_IF_ZERO);
    assert_int_equal(info->operands[2].beta_offset, offsetof(sy_gemm_args, beta));
    assert_int_equal(sy_op_describe(SY_OP_rope)->operands[0].role, SY_ROLE_UPDATE);
    assert_string_equal(sy_op_name(SY_OP_adamw), "adamw");
}

static void lacking_op_is_named_at_start_and_when_called(void **state)
{
    sy_device *dev = open_device(*state, false);
    sy_stream *stream = open_stream(dev);
    assert_int_equal(sy_ops_require_all(dev), SY_OK);
    sy_ops ops = *dev->ops;
    ops.topk = NULL;
    ops.rope = NULL;
    dev->ops = &ops;
    assert_false(sy_op_supported(dev, SY_OP_topk));
    assert_int_equal(sy_ops_require_all(dev), SY_ERR_UNSUPPORTED);
    assert_non_null(strstr(sy_error_message(), "rope, topk"));
    sy_error_clear();
    assert_int_equal(sy_topk(stream, &(sy_topk_args){.p = sy_tensor_none()}), SY_ERR_UNSUPPORTED);
    assert_non_null(strstr(sy_error_message(), "'topk'"));
    sy_error_clear();
    sy_stream_destroy(&stream);
    sy_device_close(&dev);
}

/* ---- measuring ---- */

static sy_status set_flag(sy_stream *stream, const void *args)
{
    (void)stream;
    **(bool *const *)args = true;
    return SY_OK;
}

static void dry_device_counts_but_holds_and_runs_nothing(void **state)
{
    int64_t live = sy_alloc_live();
    sy_device *dev = open_device(*state, true);
    sy_stream *stream = open_stream(dev);
    bool called = false, *flag = &called;
    float host[4] = {1, 2, 3, 4};
    float *x = NULL, *y = NULL;
    assert_int_equal(sy_device_alloc(dev, INT64_C(1) << 50, SY_MEM_PARAMS, (void **)&x), SY_OK);
    assert_int_equal(sy_device_alloc(dev, 1 << 20, SY_MEM_PARAMS, (void **)&y), SY_OK);
    assert_true((char *)y >= (char *)x + (INT64_C(1) << 50));
    assert_int_equal(dev->ledger.now[SY_MEM_PARAMS], (INT64_C(1) << 50) + (1 << 20));
    assert_int_equal(sy_copy_h2d(stream, x, host, sizeof host), SY_OK);
    assert_int_equal(sy_zero(stream, x, INT64_C(1) << 40), SY_OK);
    assert_int_equal(sy_stream_call(stream, set_flag, &flag, sizeof flag), SY_OK);
    sy_fill_args fill = {.y = sy_tensor_1d(x, dev->wide, INT64_C(1) << 40), .value = 1};
    assert_int_equal(sy_fill(stream, &fill), SY_OK);
    assert_int_equal(sy_stream_sync(stream), SY_OK);
    assert_false(called);

    sy_add_args wrong = {.a = sy_tensor_1d(x, dev->wide, 4),
                         .b = sy_tensor_1d(x, dev->wide, 5),
                         .y = sy_tensor_1d(y, dev->wide, 4)};
    assert_int_not_equal(sy_add(stream, &wrong), SY_OK); /* contracts hold here too */
    sy_error_clear();
    sy_device_free(dev, &x);
    assert_int_equal(dev->ledger.now[SY_MEM_PARAMS], 1 << 20);
    sy_stream_destroy(&stream);
    sy_device_close(&dev);
    assert_int_equal(sy_alloc_live(), live);
}

#define ON(test, backend)                                                                          \
    {                                                                                              \
        .name = #test " on " backend, .test_func = test,                                           \
        .initial_state = (void *)(uintptr_t)backend                                                \
    }
#define ON_ALL(test) ON(test, "cpu"), ON(test, "ref"), ON(test, "check")

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_misspelt_name_names_the_nearest),
        cmocka_unit_test(open_backend_that_was_not_built_names_the_option),
        cmocka_unit_test(open_every_built_name_gives_that_backend),
        cmocka_unit_test(open_config_name_of_check_gives_check),
        ON_ALL(alloc_any_size_is_aligned_and_zero),
        ON_ALL(ledger_follows_blocks_by_tag),
        ON_ALL(alloc_more_than_there_is_names_tag_and_bytes),
        ON_ALL(close_with_blocks_left_frees_them),
        ON_ALL(copies_round_trip_between_host_and_device),
        ON_ALL(calls_run_in_order_with_copied_args),
        ON_ALL(workspace_belongs_to_one_stream_and_the_ledger),
        ON_ALL(waits_of_the_host_are_counted),
        ON_ALL(warm_stream_allocates_nothing),
        ON_ALL(failing_call_is_reported_by_call_or_sync),
        cmocka_unit_test(describe_add_lists_operands_and_roles),
        ON_ALL(lacking_op_is_named_at_start_and_when_called),
        ON_ALL(dry_device_counts_but_holds_and_runs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
