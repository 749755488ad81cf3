#include "launch/choices.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "parallel/agree.h"

static const int64_t largest_file = INT64_C(1) << 30;

/* One choice of a question. */
typedef struct choice {
    int64_t question, bytes;
    bool right;
} choice;

typedef struct quiz {
    const char *path;
    const sy_tokenizer *tokenizer;
    const sy_engine *engine;
    int64_t n, room, n_questions;
    choice *choice;    /* [n] */
    sy_scored *scored; /* [n] whose ids are owned */
    double *score;     /* [n] */
} quiz;

/* ---- reading ---- */

/* Rank 0: the file as text. */
static sy_status read_file(const char *path, char **out)
{
    sy_status st = SY_OK;
    struct stat info;
    FILE *f = fopen(path, "rb");
    SY_REQUIRE(f != NULL && fstat(fileno(f), &info) == 0, SY_ERR_USAGE,
               "cannot open the questions '%s'", path);
    SY_REQUIRE(S_ISREG(info.st_mode) && info.st_size <= largest_file, SY_ERR_USAGE,
               "the questions '%s' are no file of at most 1 GiB", path);
    SY_TRY(sy_alloc(info.st_size + 1, 1, (void **)out));
    SY_REQUIRE(fread(*out, 1, (size_t)info.st_size, f) == (size_t)info.st_size, SY_ERR_IO,
               "cannot read '%s'", path);
    SY_REQUIRE(memchr(*out, '\0', (size_t)info.st_size) == NULL, SY_ERR_USAGE,
               "the questions '%s' are no text: there is a NUL byte", path);
cleanup:
    if (f != NULL) {
        fclose(f);
    }
    return st;
}

static sy_status make_room_for_one(quiz *q)
{
    sy_status st = SY_OK;
    const int64_t room = 2 * q->room + 256;
    if (q->n == q->room) {
        SY_TRY(sy_realloc(room, sizeof *q->choice, (void **)&q->choice));
        SY_TRY(sy_realloc(room, sizeof *q->scored, (void **)&q->scored));
        q->room = room;
    }
cleanup:
    return st;
}

/* Context and choice are one text for the tokenizer; what is scored begins behind as many ids as
   the context alone has. */
static sy_status add_choice(quiz *q, int64_t line, const char *context, const char *text,
                            bool right)
{
    sy_status st = SY_OK;
    const int32_t V = q->engine->settings->model->vocab_size;
    const int64_t n_context = (int64_t)strlen(context), n_text = (int64_t)strlen(text);
    int64_t before = 0, n = 0;
    char *whole = NULL;
    int32_t *ids = NULL;
    SY_TRY(sy_asprintf(&whole, "%s%s", context, text));
    SY_TRY(sy_alloc(sy_tokenizer_max_ids(q->tokenizer, n_context + n_text) + 1, sizeof *ids,
                    (void **)&ids));
    SY_TRY(sy_tokenizer_encode(q->tokenizer, context, n_context, ids, &before));
    SY_TRY(sy_tokenizer_encode(q->tokenizer, whole, n_context + n_text, ids, &n));
    before = before < n ? before : n - 1; /* a choice may grow together with its context */
    SY_REQUIRE(n_text > 0 && before >= 1 && n - before <= q->engine->spec.S, SY_ERR_USAGE,
               "'%s', line %" PRId64 ": a context of %" PRId64 " and a choice of %" PRId64
               " tokens; wanted are 1 at least, and a choice of at most model.seq_len %d",
               q->path, line, before, n - before, q->engine->spec.S);
    for (int64_t i = 0; i < n; i++) {
        SY_REQUIRE(ids[i] >= 0 && ids[i] < V, SY_ERR_USAGE,
                   "'%s', line %" PRId64 ": token id %d is not below model.vocab_size %d", q->path,
                   line, ids[i], V);
    }
    if (n > q->engine->spec.S + 1) { /* what the model sees of it */
        memmove(ids, ids + n - q->engine->spec.S - 1,
                (size_t)(q->engine->spec.S + 1) * sizeof *ids);
        before -= n - q->engine->spec.S - 1;
        n = q->engine->spec.S + 1;
    }
    SY_TRY(sy_realloc(n, sizeof *ids, (void **)&ids));
    SY_TRY(make_room_for_one(q));
    q->choice[q->n] = (choice){q->n_questions, n_text, right};
    q->scored[q->n++] = (sy_scored){ids, n, n - before};
    ids = NULL;
cleanup:
    sy_free(&ids);
    sy_free(&whole);
    return st;
}

static sy_status add_question(quiz *q, int64_t line, const json_t *object)
{
    sy_status st = SY_OK;
    const json_t *context = json_object_get(object, "context"),
                 *choices = json_object_get(object, "choices"),
                 *answer = json_object_get(object, "answer");
    const int64_t n = (int64_t)json_array_size(choices);
    SY_REQUIRE(json_is_string(context) && json_is_array(choices) && json_is_integer(answer),
               SY_ERR_USAGE,
               "'%s', line %" PRId64 ": wanted are \"context\" (text), \"choices\" (list of texts) "
               "and \"answer\" (number)",
               q->path, line);
    SY_REQUIRE(n >= 2 && json_integer_value(answer) >= 0 && json_integer_value(answer) < n,
               SY_ERR_USAGE, "'%s', line %" PRId64 ": answer %" PRId64 " of %" PRId64 " choices",
               q->path, line, (int64_t)json_integer_value(answer), n);
    for (int64_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(choices, (size_t)i));
        SY_REQUIRE(text != NULL, SY_ERR_USAGE,
                   "'%s', line %" PRId64 ": choice %" PRId64 " is no text", q->path, line, i);
        SY_TRY(
            add_choice(q, line, json_string_value(context), text, i == json_integer_value(answer)));
    }
    q->n_questions++;
cleanup:
    return st;
}

static sy_status parse(quiz *q, const char *text)
{
    sy_status st = SY_OK;
    json_t *object = NULL;
    int64_t line = 1;
    for (const char *at = text; *at != '\0'; line++) {
        const size_t n = strcspn(at, "\n");
        json_error_t error;
        if (strspn(at, " \t\r") < n) {
            json_decref(object);
            object = json_loadb(at, n, JSON_REJECT_DUPLICATES, &error);
            SY_REQUIRE(object != NULL, SY_ERR_USAGE, "'%s', line %" PRId64 ": %s", q->path, line,
                       error.text);
            SY_TRY(add_question(q, line, object));
        }
        at += n + (at[n] == '\n');
    }
    SY_REQUIRE(q->n_questions > 0, SY_ERR_USAGE, "there are no questions in '%s'", q->path);
    SY_TRY(sy_alloc(q->n, sizeof *q->score, (void **)&q->score));
cleanup:
    json_decref(object);
    return st;
}

/* ---- the answers ---- */

static double measure(const quiz *q, int64_t i, bool per_byte)
{
    return per_byte ? q->score[i] / (double)q->choice[i].bytes : q->score[i];
}

static double accuracy(const quiz *q, bool per_byte)
{
    int64_t n_right = 0;
    for (int64_t i = 0, best = 0; i < q->n; i++) {
        if (q->choice[i].question != q->choice[best].question ||
            measure(q, i, per_byte) > measure(q, best, per_byte)) {
            best = i;
        }
        if (i + 1 == q->n || q->choice[i + 1].question != q->choice[i].question) {
            n_right += q->choice[best].right;
        }
    }
    return (double)n_right / (double)q->n_questions;
}

static double nll_of_right(const quiz *q)
{
    double sum = 0;
    for (int64_t i = 0; i < q->n; i++) {
        sum -= q->choice[i].right ? q->score[i] : 0;
    }
    return sum / (double)q->n_questions;
}

sy_status sy_choices_ask(sy_engine *engine, const sy_tokenizer *tokenizer, const char *path,
                         sy_choices_result *out)
{
    sy_status st = SY_OK;
    sy_comm *host = engine->mesh->host;
    quiz q = {.path = path, .tokenizer = tokenizer, .engine = engine};
    char *text = NULL;
    SY_TRY(sy_agree(host, host->rank == 0 ? read_file(path, &text) : SY_OK));
    SY_TRY(sy_host_broadcast_text(host, &text));
    SY_TRY(sy_agree(host, parse(&q, text)));
    SY_TRY(sy_score_sequences(engine, q.scored, q.n, q.score));
    *out = (sy_choices_result){q.n_questions, accuracy(&q, false), accuracy(&q, true),
                               nll_of_right(&q)};
cleanup:
    for (int64_t i = 0; i < q.n; i++) {
        int32_t *ids = (int32_t *)(uintptr_t)q.scored[i].ids;
        sy_free(&ids);
    }
    sy_free(&q.score);
    sy_free(&q.scored);
    sy_free(&q.choice);
    sy_free(&text);
    return st;
}
