/* The file of questions: a line of JSON each. */
#include "launch/choices_read.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "core/alloc.h"

static sy_status make_room_for_one(sy_quiz *q)
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
static sy_status add_choice(sy_quiz *q, int64_t line, const char *context, const char *text,
                            bool right)
{
    sy_status st = SY_OK;
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
    SY_REQUIRE(before >= 1 && n - before <= q->S, SY_ERR_USAGE,
               "'%s', line %" PRId64 ": a context of %" PRId64 " and a choice of %" PRId64
               " tokens; wanted are 1 at least, and a choice of at most model.seq_len %d",
               q->path, line, before, n - before, q->S);
    for (int64_t i = 0; i < n; i++) {
        SY_REQUIRE(ids[i] >= 0 && ids[i] < q->vocab_size, SY_ERR_USAGE,
                   "'%s', line %" PRId64 ": token id %d is not below model.vocab_size %d", q->path,
                   line, ids[i], q->vocab_size);
    }
    if (n > q->S + 1) { /* what the model sees of it */
        memmove(ids, ids + n - q->S - 1, (size_t)(q->S + 1) * sizeof *ids);
        before -= n - q->S - 1;
        n = q->S + 1;
    }
    SY_TRY(sy_realloc(n, sizeof *ids, (void **)&ids));
    SY_TRY(make_room_for_one(q));
    q->choice[q->n] = (sy_choice){q->n_questions, n_text, right};
    q->scored[q->n++] = (sy_scored){ids, n, n - before};
    ids = NULL;
cleanup:
    sy_free(&ids);
    sy_free(&whole);
    return st;
}

static sy_status add_question(sy_quiz *q, int64_t line, const json_t *object)
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
        SY_REQUIRE(text != NULL && text[0] != '\0', SY_ERR_USAGE,
                   "'%s', line %" PRId64 ": choice %" PRId64 " is %s", q->path, line, i,
                   text == NULL ? "no text" : "empty");
        SY_TRY(
            add_choice(q, line, json_string_value(context), text, i == json_integer_value(answer)));
    }
    q->n_questions++;
cleanup:
    return st;
}

sy_status sy_quiz_parse(sy_quiz *q, const char *text)
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
cleanup:
    json_decref(object);
    return st;
}

void sy_quiz_free(sy_quiz *q)
{
    for (int64_t i = 0; i < q->n; i++) {
        int32_t *ids = (int32_t *)(uintptr_t)q->scored[i].ids;
        sy_free(&ids);
    }
    sy_free(&q->scored);
    sy_free(&q->choice);
}
