/* The report page: complete by itself, well-formed whatever names come in, and true to the log. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/alloc.h"
#include "report/html.h"
#include "report/svg.h"
#include "tests/support/scratch.h"
#include "tests/support/well_formed.h"

typedef char path_buf[2 * SCRATCH_PATH];

static sy_status write_one(const char *run_dir, const char *out_path, char **written)
{
    return sy_report_write(&run_dir, 1, out_path, written);
}

static char *render_text(void **state, const char *jsonl, const char *name, const char *config)
{
    path_buf path;
    sy_metrics_log log = {0};
    char *page = NULL;
    scratch_write(scratch_path(state, "metrics.jsonl", path), jsonl);
    assert_int_equal(sy_metrics_log_read(path, &log), SY_OK);
    assert_int_equal(sy_report_render(&(sy_report_run){.log = &log,
                                                       .name = name,
                                                       .config = config,
                                                       .holder = SY_HOLDER_NONE,
                                                       .quiet_s = -1},
                                      1, &page),
                     SY_OK);
    sy_metrics_log_free(&log);
    assert_true(html_is_well_formed(page));
    return page;
}

/* n steps of two layers with 4 experts; in layer 1 the experts 1 and 3 stay empty from `starve` on.
 */
static char *make_log(int32_t n, int32_t starve)
{
    char *text = NULL;
    size_t n_bytes = 0;
    FILE *file = open_memstream(&text, &n_bytes);
    for (int32_t s = 1; s <= n; s++) {
        int32_t rest = s >= starve ? 0 : 4;
        fprintf(file,
                "{\"step\":%d,\"tokens\":%d,\"time_s\":%g,\"train/loss\":%.17g,"
                "\"moe/drop_fraction\":0.25,\"moe/load_max_over_mean\":1.5,"
                "\"moe/layer_0/load\":[4,4,4,4],\"moe/layer_1/load\":[4,%d,4,%d],"
                "\"perf/tokens_per_s\":1e4}\n",
                s, s * 100, s * 0.1, 2 + 2.0 / s, rest, rest);
    }
    fclose(file);
    return text;
}

static void hostile_names_are_escaped(void **state)
{
    static const char hostile[] = "<script>alert(1)</script>\"'&\x01\xff";
    char *page =
        render_text(state,
                    "{\"step\":1,\"train/loss\":2,\"valid/<img src=x onerror=y>\\\"'&/loss\":3}\n"
                    "{\"step\":2,\"train/loss\":2,\"valid/<img src=x onerror=y>\\\"'&/loss\":9}\n",
                    hostile, "run:\n  name: </pre><script>x</script> & \"q\"\n");
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "<img"));
    assert_null(strchr(page, 1));
    assert_null(strchr(page, '\xff'));
    assert_non_null(
        strstr(page, "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;\xEF\xBF\xBD"));
    assert_non_null(strstr(page, "valid/&lt;img src=x onerror=y&gt;&quot;&#39;&amp;"));
    assert_non_null(strstr(page, "&lt;/pre&gt;&lt;script&gt;x"));
    sy_free(&page);
}

static void page_needs_nothing_beside_itself(void **state)
{
    static const char *const outside[] = {"http:",   "https:", "src=",    "href=",   "url(",
                                          "@import", "<link",  "<script", "<iframe", "<object"};
    char *log = make_log(50, 100);
    char *page = render_text(state, log, "a", "run: {name: a}\n");
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        assert_null(strstr(page, outside[i]));
    }
    assert_non_null(strstr(page, "prefers-color-scheme:dark"));
    sy_free(&page);
    free(log);
}

static void empty_and_tiny_logs_give_a_page(void **state)
{
    char *page = render_text(state, "", "a", NULL);
    assert_non_null(strstr(page, "No step has been logged yet."));
    sy_free(&page);
    page = render_text(state, "{\"step\":1}\n", "a", NULL);
    assert_non_null(strstr(page, "No loss has been logged."));
    sy_free(&page);
    page = render_text(state, "{\"step\":5,\"train/loss\":2.125}\n", "a", NULL);
    assert_non_null(strstr(page, "2.125"));
    assert_non_null(strstr(page, "<circle"));
    sy_free(&page);
    page = render_text(state, "{\"step\":1,\"train/loss\":null,\"moe/layer_0/load\":[0,0]}\n", "a",
                       "");
    assert_non_null(strstr(page, "not finite in 1 logged step, first in step 1"));
    sy_free(&page);
}

static void odd_values_give_a_page(void **state)
{
    char *page = render_text(state,
                             "{\"step\":1,\"train/loss\":1e300,\"train/grad_norm\":-1e300}\n"
                             "{\"step\":2,\"train/loss\":-1e300,\"train/grad_norm\":0}\n"
                             "{\"step\":3,\"train/loss\":0,\"train/lr\":0,\"perf/mfu\":1e-300,"
                             "\"moe/layer_0/load\":[-1,2],\"moe/layer_9/load\":[5]}\n"
                             "{\"step\":4,\"train/loss\":1e308,\"train/grad_norm\":-1e308,"
                             "\"perf/step_ms\":1e308,\"moe/layer_0/load\":[1e308,1e308]}\n"
                             "{\"step\":5,\"train/loss\":-1e308,\"train/grad_norm\":1e308,"
                             "\"perf/step_ms\":-1e308,\"moe/layer_0/load\":[-1e308,1e308]}\n",
                             "a", NULL);
    assert_null(strstr(page, "nan"));
    assert_null(strstr(page, "inf"));
    sy_free(&page);
}

static void long_run_stays_a_small_page(void **state)
{
    char *log = make_log(20000, 30000);
    char *page = render_text(state, log, "a", NULL);
    assert_true(strlen(page) < 500000);
    assert_non_null(strstr(page, "20,000"));
    sy_free(&page);
    free(log);
}

/* Every cell of another colour than its neighbours: the worst there can be. */
static void many_layers_and_experts_stay_a_page(void **state)
{
    enum { STEPS = 120, LAYERS = 100, EXPERTS = 256 };
    char *text = NULL;
    size_t n_bytes = 0;
    FILE *file = open_memstream(&text, &n_bytes);
    for (int32_t s = 1; s <= STEPS; s++) {
        fprintf(file, "{\"step\":%d", s);
        for (int32_t l = 0; l < LAYERS; l++) {
            fprintf(file, ",\"moe/layer_%d/load\":[", l);
            for (int32_t e = 0; e < EXPERTS; e++) {
                fprintf(file, "%s%d", e > 0 ? "," : "", (s * 7 + e * 5 + l) % 13);
            }
            fputc(']', file);
        }
        fputs("}\n", file);
    }
    fclose(file);
    char *page = render_text(state, text, "a", NULL);
    assert_true(strlen(page) < 4000000);
    assert_non_null(strstr(page, "expert 0 to 255, top to bottom, means of neighbours"));
    assert_non_null(strstr(page, "<h3>Layer 99</h3>"));
    sy_free(&page);
    free(text);
}

static void dead_experts_are_warned_of_and_drawn(void **state)
{
    char *log = make_log(220, 1);
    char *page = render_text(state, log, "a", NULL);
    assert_non_null(strstr(page, "Layer 1: 2 of 4 experts (1, 3) got no token from step 199 on."));
    assert_null(strstr(page, "Layer 0: "));
    assert_non_null(strstr(page, "25.0 % of the rows were dropped"));
    /* Layer 1: rows 1 and 3 are "none" in every column; layer 0 is even all over (the middle
     * colour). */
    assert_non_null(strstr(page, "<path class=\"m0\" d=\"M0 1.5h110M0 3.5h110\"/>"));
    assert_non_null(
        strstr(page, "<path class=\"m9\" d=\"M0 0.5h110M0 1.5h110M0 2.5h110M0 3.5h110\"/>"));
    sy_free(&page);
    free(log);
    /* Twice an even share is four colours above the middle; the change at half time is at half
     * width. */
    log = make_log(220, 111);
    page = render_text(state, log, "a", NULL);
    assert_non_null(strstr(page, "<path class=\"m0\" d=\"M55 1.5h55M55 3.5h55\"/>"));
    assert_non_null(strstr(page, "<path class=\"m13\" d=\"M55 0.5h55M55 2.5h55\"/>"));
    sy_free(&page);
    free(log);
}

static void forced_balance_is_labelled(void **state)
{
    char *page = render_text(state, "", "a", "moe:\n  force_balance: true\n");
    assert_non_null(strstr(page, "moe.force_balance was set"));
    sy_free(&page);
    page = render_text(state, "", "a", "moe:\n  force_balance: false\n");
    assert_null(strstr(page, "moe.force_balance was set"));
    sy_free(&page);
}

static void loss_curve_goes_through_the_logged_values(void **state)
{
    double x, y, last_x = -1, last_y = -1;
    int32_t n = 0;
    char *page = render_text(state,
                             "{\"step\":1,\"train/loss\":4}\n{\"step\":2,\"train/loss\":3}\n"
                             "{\"step\":3,\"train/loss\":2}\n",
                             "a", NULL);
    const char *at =
        strstr(page, "<path class=\"line c0\" d=\"M") + strlen("<path class=\"line c0\" d=\"");
    while ((*at == 'M' || *at == 'L') && sscanf(at + 1, "%lf %lf", &x, &y) == 2) {
        /* Equal steps and equal falls: equal distances, to the right and downwards. */
        assert_true(n == 0 || (x > last_x && y > last_y));
        if (n == 2) {
            assert_true(fabs((y - last_y) - 200.0 / 2) < 10);
        }
        last_x = x;
        last_y = y;
        n++;
        at += 1 + strcspn(at + 1, "L\"");
    }
    assert_int_equal(n, 3);
    sy_free(&page);
}

static void ticks_are_round_and_inside(void **state)
{
    (void)state;
    double tick[SY_SVG_TICKS];
    char label[32];
    sy_svg_scale scale = {.lo = 0, .hi = 10, .from = 0, .to = 100};
    static const double even[] = {0, 2, 4, 6, 8, 10};
    assert_int_equal(sy_svg_ticks(&scale, 5, tick), 6);
    for (int32_t i = 0; i < 6; i++) {
        assert_true(tick[i] == even[i]);
    }
    scale = (sy_svg_scale){.lo = -0.31, .hi = 0.29, .from = 0, .to = 100};
    int32_t n = sy_svg_ticks(&scale, 6, tick);
    assert_int_equal(n, 6);
    assert_true(tick[3] == 0);
    assert_string_equal(sy_svg_label(tick[4], 0.1, label, sizeof label), "0.1");
    scale = (sy_svg_scale){.lo = 0.02, .hi = 30, .is_log = true, .from = 0, .to = 100};
    n = sy_svg_ticks(&scale, 5, tick);
    assert_in_range(n, 3, SY_SVG_TICKS);
    for (int32_t i = 0; i < n; i++) {
        assert_true(tick[i] >= scale.lo && tick[i] <= scale.hi);
    }
    assert_true(fabs(sy_svg_place(&scale, sqrt(0.02 * 30)) - 50) < 1e-9);
    assert_true(sy_svg_place(&scale, 1e9) == 100);
    assert_string_equal(sy_svg_label(3e-4, 1e-4, label, sizeof label), "3e-04");
    assert_string_equal(sy_svg_label(2.5e-4, 5e-5, label, sizeof label), "2.5e-04");
    assert_string_equal(sy_svg_label(15000, 5000, label, sizeof label), "15 k");
}

static void report_of_a_run_directory_is_written_beside_it(void **state)
{
    path_buf path;
    char *written = NULL, *log = make_log(5, 9);
    assert_int_equal(mkdir(scratch_path(state, "my run", path), 0777), 0);
    scratch_write(scratch_path(state, "my run/metrics.jsonl", path), log);
    scratch_write(scratch_path(state, "my run/config.yaml", path), "run: {name: <x>}\n");
    assert_int_equal(write_one(scratch_path(state, "my run/", path), NULL, &written), SY_OK);
    assert_non_null(strstr(written, "/my run/report.html"));
    char *page = scratch_read(written);
    assert_true(html_is_well_formed(page));
    assert_non_null(strstr(page, "<h1>my run</h1>"));
    assert_non_null(strstr(page, "run: {name: &lt;x&gt;}"));
    assert_false(scratch_exists(scratch_path(state, "my run/.report.html.tmp", path)));
    free(page);
    sy_free(&written);
    free(log);
}

static void report_without_a_run_or_a_place_is_wrong_use(void **state)
{
    path_buf path, out;
    assert_int_equal(write_one("/nonexistent/run", NULL, NULL), SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "/nonexistent/run"));
    sy_error_clear();
    assert_int_equal(write_one(((scratch *)*state)->dir, NULL, NULL), SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), "no run directory"));
    sy_error_clear();
    scratch_write(scratch_path(state, "metrics.jsonl", path), "");
    assert_int_equal(
        write_one(((scratch *)*state)->dir, scratch_path(state, "none/x.html", out), NULL),
        SY_ERR_USAGE);
    assert_non_null(strstr(sy_error_message(), out));
    sy_error_clear();
}

/* Two sets, two labels, one of which a set never got; of each layer too. */
static void routed_shares_stand_in_a_matrix(void **state)
{
    char *page =
        render_text(state,
                    "{\"step\":1,\"valid/a&b/routed/x\":0.9,\"valid/a&b/routed/y\":0.1,"
                    "\"valid/a&b/layer_3/routed/x\":0.25,\"valid/two/routed/x\":0.375,"
                    "\"valid/two/loss\":2.5,\"valid/routed/loss\":2.5}\n"
                    "{\"step\":2,\"valid/a&b/routed/x\":0.625,\"valid/a&b/routed/y\":0.375,"
                    "\"valid/a&b/layer_3/routed/x\":0.5,\"valid/two/routed/x\":0.75}\n",
                    "r", NULL);
    assert_true(html_is_well_formed(page));
    assert_non_null(strstr(page, "<tr><th></th><th>x</th><th>y</th></tr>\n"
                                 "<tr><td>a&amp;b</td><td style=\"--share:38%\">62.5 %</td>"
                                 "<td style=\"--share:22%\">37.5 %</td></tr>\n"
                                 "<tr><td>two</td><td style=\"--share:45%\">75.0 %</td><td></td>"
                                 "</tr>\n</table>"));
    assert_non_null(strstr(page, "<tr><td>a&amp;b <small>layer 3</small></td>"
                                 "<td style=\"--share:30%\">50.0 %</td><td></td></tr>"));
    assert_non_null(strstr(page, "all layers, step 2; even: 50.0 %"));
    assert_non_null(strstr(page, "<h3>a&amp;b goes to</h3>"));
    assert_non_null(strstr(page, "<h3>two goes to</h3>"));
    sy_free(&page);
    page = render_text(state, "{\"step\":1,\"valid/a/loss\":2}\n", "r", NULL);
    assert_null(strstr(page, "Which text goes"));
    sy_free(&page);
}

/* The page of a run of 400 steps as its lock and its last line leave it. */
static char *render_state(void **state, int32_t n_lines, sy_run_holder holder, double quiet_s)
{
    path_buf path;
    sy_metrics_log log = {0};
    char *page = NULL, *text = make_log(n_lines, 1000);
    scratch_write(scratch_path(state, "metrics.jsonl", path), text);
    assert_int_equal(sy_metrics_log_read(path, &log), SY_OK);
    sy_report_run run = {.log = &log,
                         .name = "a",
                         .config = "run:\n  name: a\ntrain:\n  steps: 400 \n",
                         .holder = holder,
                         .quiet_s = quiet_s};
    assert_int_equal(sy_report_render(&run, 1, &page), SY_OK);
    assert_true(html_is_well_formed(page));
    sy_metrics_log_free(&log);
    free(text);
    return page;
}

static void state_is_said_in_words(void **state)
{
    static const struct {
        int32_t n_lines;
        sy_run_holder holder;
        double quiet_s;
        const char *pill, *words, *also;
    } cases[] = {
        /* 0.1 s a step, 300 to go */
        {100, SY_HOLDER_RUNS, 1, "running", "step 100 of 400 (25 %), about 0:30 to go.", ""},
        {100, SY_HOLDER_RUNS, 500, "running", "about 0:30 to go.", "No line for 8:20"},
        {100, SY_HOLDER_DIED, 500, "died", "step 100 of 400 (25 %). <code>train --resume", ""},
        {399, SY_HOLDER_NONE, 500, "stopped", "step 399 of 400 (99 %). <code>train --resume", ""},
        {100, SY_HOLDER_SELF, 0, "stopped", "step 100 of 400 (25 %). <code>", ""},
        {400, SY_HOLDER_SELF, 0, "finished", "400 steps in 0:40.", ""},
        {0, SY_HOLDER_RUNS, 0, "running", "No step has been logged yet.", ""},
        {0, SY_HOLDER_DIED, 0, "died", "it ended before a step was logged.", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *page = render_state(state, cases[i].n_lines, cases[i].holder, cases[i].quiet_s);
        char pill[64];
        snprintf(pill, sizeof pill, "\">%s</span> ", cases[i].pill);
        assert_non_null(strstr(page, pill));
        assert_non_null(strstr(page, cases[i].words));
        assert_non_null(strstr(page, cases[i].also));
        assert_int_equal(strstr(page, "No line for") != NULL, cases[i].also[0] != '\0');
        sy_free(&page);
    }
}

static void damage_of_the_file_is_named(void **state)
{
    char *page = render_text(state,
                             "{\"step\":1,\"train/loss\":4}\n{\"step\":2,\"trai\x01{{\n"
                             "{\"step\":3,\"train/loss\":2}\nrubbish\n{\"step\":4,\"train/lo",
                             "a", NULL);
    assert_non_null(strstr(page, "Line 2 of metrics.jsonl is damaged and was left out, and so were "
                                 "1 more."));
    assert_non_null(strstr(page, "The last line of metrics.jsonl has no end"));
    assert_non_null(strstr(page, "2 things to look at"));
    assert_non_null(strstr(page, "from 2 logged steps"));
    sy_free(&page);
}

/* 2 + 8 ms of 40 are dispatch and combine; forward and backward are 30, of which 20 are theirs and
   the experts'. */
static void phases_and_purposes_are_shares_of_the_whole(void **state)
{
    char *page = render_text(
        state,
        "{\"step\":1,\"perf/step_ms\":40,\"perf/forward_ms\":10,\"perf/backward_ms\":20,"
        "\"perf/dispatch_ms\":2,\"perf/combine_ms\":8,\"perf/experts_ms\":10,"
        "\"perf/optimizer_ms\":4,\"mem/params_bytes\":1048576,\"mem/saved_bytes\":3145728}\n",
        "a", NULL);
    assert_non_null(strstr(page, "experts</td><td>10 ms</td><td>25.0 %</td>"));
    assert_non_null(strstr(page, "dispatch and combine</td><td>10 ms</td><td>25.0 %</td>"));
    assert_non_null(strstr(page, "rest of forward and backward</td><td>10 ms</td><td>25.0 %</td>"));
    assert_non_null(strstr(page, "optimizer</td><td>4 ms</td><td>10.0 %</td>"));
    assert_non_null(strstr(page, "what no timer covers</td><td>6 ms</td><td>15.0 %</td>"));
    assert_null(strstr(page, "waiting for data"));
    assert_non_null(strstr(page, "parameters</td><td>1 MiB</td><td>25.0 %</td>"));
    assert_non_null(strstr(page, "kept for backward</td><td>3 MiB</td><td>75.0 %</td>"));
    sy_free(&page);
}

/* Two layers whose entropies differ; drops in the last of two parts of the sequence. */
static void layers_and_places_of_drops_are_maps(void **state)
{
    char *page =
        render_text(state,
                    "{\"step\":1,\"moe/layer_1/load\":[1,1],\"moe/layer_3/load\":[1,1],"
                    "\"moe/layer_1/router_entropy\":0.5,\"moe/layer_3/router_entropy\":1.5,"
                    "\"moe/layer_1/drop_position\":[0,1],\"moe/layer_3/drop_position\":[0,0.75],"
                    "\"moe/drop_fraction\":0.2}\n",
                    "a", NULL);
    assert_non_null(strstr(page, "by layer; faint 0.5, strong 1.5 nats"));
    assert_non_null(strstr(page, "faint 0, strong 87.5 %"));
    assert_non_null(strstr(page, "The last 1/2 of the sequence has 88 % of them."));
    assert_non_null(strstr(page, "<path class=\"s0\" d=\"M0 0.5h1\"/>\n"
                                 "<path class=\"s11\" d=\"M0 1.5h1\"/>"));
    sy_free(&page);
}

static void runs_beside_each_other_show_where_they_differ(void **state)
{
    static const char *const text[] = {
        "{\"step\":1,\"train/loss\":4}\n{\"step\":2,\"train/loss\":3}\n",
        "{\"step\":1,\"train/loss\":5,\"valid/v/loss\":1}\n{\"step\":4,\"train/loss\":2.5}\n", ""};
    static const char *const config[] = {"optim:\n  lr: 0.1\n  eps: 1\ntrain:\n  steps: 4\n",
                                         "optim:\n  lr: 0.2\n  eps: 1\ntrain:\n  steps: 4\n", NULL};
    path_buf path, dir[3];
    const char *dirs[3];
    char *written = NULL, name[64];
    for (int32_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "run<%d>", i);
        dirs[i] = scratch_path(state, name, dir[i]);
        assert_int_equal(mkdir(dirs[i], 0777), 0);
        snprintf(name, sizeof name, "run<%d>/metrics.jsonl", i);
        scratch_write(scratch_path(state, name, path), text[i]);
        snprintf(name, sizeof name, "run<%d>/config.yaml", i);
        if (config[i] != NULL) {
            scratch_write(scratch_path(state, name, path), config[i]);
        }
    }
    assert_int_equal(sy_report_write(dirs, 2, NULL, &written), SY_OK);
    assert_non_null(strstr(written, "run<0>/compare.html"));
    char *page = scratch_read(written);
    assert_true(html_is_well_formed(page));
    assert_non_null(strstr(page, "<h1>run&lt;0&gt;, run&lt;1&gt;</h1>"));
    assert_non_null(strstr(page, "<td><code>optim.lr</code></td><td>0.1</td>"
                                 "<td class=\"new\">0.2</td></tr>"));
    assert_null(strstr(page, "<code>optim.eps</code>"));
    assert_non_null(strstr(page, "<td>training loss</td><td>3</td><td>2.5</td>"));
    assert_non_null(strstr(page, "<td>valid/v/loss</td><td></td><td>1</td>"));
    assert_non_null(strstr(page, "<path class=\"line c0\""));
    assert_non_null(strstr(page, "<path class=\"line c1\""));
    free(page);
    sy_free(&written);
    assert_int_equal(sy_report_write(dirs, 3, NULL, &written), SY_OK);
    sy_free(&written);
    const char *many[SY_REPORT_RUNS_MAX + 1] = {NULL};
    assert_int_equal(sy_report_write(many, SY_REPORT_RUNS_MAX + 1, NULL, NULL), SY_ERR_USAGE);
    sy_error_clear();
}

static void memory_is_all_given_back(void **state)
{
    (void)state;
    assert_int_equal(sy_alloc_live(), 0);
}

#define IN_SCRATCH(test) cmocka_unit_test_setup_teardown(test, scratch_setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(hostile_names_are_escaped),
        IN_SCRATCH(page_needs_nothing_beside_itself),
        IN_SCRATCH(empty_and_tiny_logs_give_a_page),
        IN_SCRATCH(odd_values_give_a_page),
        IN_SCRATCH(long_run_stays_a_small_page),
        IN_SCRATCH(many_layers_and_experts_stay_a_page),
        IN_SCRATCH(dead_experts_are_warned_of_and_drawn),
        IN_SCRATCH(forced_balance_is_labelled),
        IN_SCRATCH(loss_curve_goes_through_the_logged_values),
        IN_SCRATCH(routed_shares_stand_in_a_matrix),
        cmocka_unit_test(ticks_are_round_and_inside),
        IN_SCRATCH(report_of_a_run_directory_is_written_beside_it),
        IN_SCRATCH(report_without_a_run_or_a_place_is_wrong_use),
        IN_SCRATCH(state_is_said_in_words),
        IN_SCRATCH(damage_of_the_file_is_named),
        IN_SCRATCH(phases_and_purposes_are_shares_of_the_whole),
        IN_SCRATCH(layers_and_places_of_drops_are_maps),
        IN_SCRATCH(runs_beside_each_other_show_where_they_differ),
        cmocka_unit_test(memory_is_all_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
