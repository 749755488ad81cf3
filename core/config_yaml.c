/* YAML text -> tree, by the events of libyaml. What a configuration does not need is refused here:
   anchors, aliases, tags, several documents, duplicate keys (libyaml keeps them silently), endless
   text, depth or number of values. */
#include <string.h>
#include <yaml.h>

#include "core/alloc.h"
#include "core/config_impl.h"

enum { MAX_TEXT_BYTES = 1 << 20, MAX_DEPTH = 8, MAX_NODES = 1 << 16, MAX_MAP_KEYS = 1024 };

typedef struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    const sy__source *source;
    const char *text;
    size_t text_bytes;
    int32_t n_nodes;
} reader;

void sy__node_destroy(sy__node **node)
{
    for (sy__node *n = *node, *next; n; n = next) {
        next = n->next;
        sy__node_destroy(&n->first_child);
        sy_free(&n->key);
        sy_free(&n->text);
        sy_free(&n);
    }
    *node = NULL;
}

bool sy__node_is_empty(const sy__node *node)
{
    return node->kind == SY__SCALAR && node->plain && node->text[0] == '\0';
}

bool sy__node_is_null(const sy__node *node)
{
    return node->kind == SY__SCALAR && node->plain && strcmp(node->text, "null") == 0;
}

static int32_t event_line(const reader *r)
{
    return (int32_t)r->event.start_mark.line + 1;
}

/* The reader stage knows an offset only, the others a mark. */
static int32_t problem_line(const reader *r)
{
    if (r->parser.error != YAML_READER_ERROR) {
        return (int32_t)r->parser.problem_mark.line + 1;
    }
    int32_t line = 1;
    for (size_t i = 0; i < r->parser.problem_offset && i < r->text_bytes; i++) {
        line += r->text[i] == '\n';
    }
    return line;
}

static sy_status advance(reader *r)
{
    yaml_event_delete(&r->event);
    if (yaml_parser_parse(&r->parser, &r->event)) {
        return SY_OK;
    }
    memset(&r->event, 0, sizeof r->event);
    if (r->parser.error == YAML_MEMORY_ERROR) {
        return sy_error(SY_ERR_MEMORY, "out of memory while reading %s", r->source->name);
    }
    return sy__refuse(r->source, problem_line(r), "not valid YAML: %s%s%s",
                      r->parser.problem ? r->parser.problem : "syntax error",
                      r->parser.context ? ", " : "", r->parser.context ? r->parser.context : "");
}

static sy_status check_event(reader *r, int32_t depth)
{
    const yaml_event_t *e = &r->event;
    const void *anchor = NULL, *tag = NULL;
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    }
    if (anchor || tag || e->type == YAML_ALIAS_EVENT) {
        return sy__refuse(r->source, event_line(r),
                          "anchors (&), aliases (*) and tags (!) are not used here; "
                          "put a text that begins with one of them in quotes");
    }
    if (depth > MAX_DEPTH) {
        return sy__refuse(r->source, event_line(r), "values are nested deeper than %d", MAX_DEPTH);
    }
    if (++r->n_nodes > MAX_NODES) {
        return sy__refuse(r->source, event_line(r), "more than %d values", MAX_NODES);
    }
    return SY_OK;
}

/* The current scalar as a string of ours. */
static sy_status take_text(reader *r, char **out)
{
    const char *value = (const char *)r->event.data.scalar.value;
    if (strlen(value) != r->event.data.scalar.length) {
        return sy__refuse(r->source, event_line(r), "a text contains a zero byte");
    }
    return sy_strdup(value, out);
}

static sy_status read_node(reader *r, int32_t depth, sy__node **out);

static sy_status check_key(const reader *r, const sy__node *map, const char *key)
{
    if (map->n_children >= MAX_MAP_KEYS) {
        return sy__refuse(r->source, event_line(r), "more than %d keys in one place", MAX_MAP_KEYS);
    }
    for (const sy__node *c = map->first_child; c; c = c->next) {
        if (strcmp(c->key, key) == 0) {
            return sy__refuse(r->source, event_line(r), "duplicate key '%s' (first on line %d)",
                              key, c->line);
        }
    }
    return SY_OK;
}

/* The current event is the key; afterwards it is the last of the value. */
static sy_status read_pair(reader *r, int32_t depth, const sy__node *map, sy__node **out)
{
    sy_status st = SY_OK;
    char *key = NULL;
    int32_t line = event_line(r);
    SY_TRY(check_event(r, depth));
    if (r->event.type != YAML_SCALAR_EVENT) {
        return sy__refuse(r->source, line, "a key must be a plain word");
    }
    SY_TRY(take_text(r, &key));
    SY_TRY(check_key(r, map, key));
    SY_TRY(advance(r));
    SY_TRY(read_node(r, depth, out));
    (*out)->line = line;
    (*out)->key = key;
    key = NULL;
cleanup:
    sy_free(&key);
    return st;
}

static sy_status read_children(reader *r, int32_t depth, sy__node *parent)
{
    sy_status st = SY_OK;
    bool is_map = parent->kind == SY__MAP;
    yaml_event_type_t end = is_map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    sy__node **tail = &parent->first_child;
    SY_TRY(advance(r));
    while (r->event.type != end) {
        SY_TRY(is_map ? read_pair(r, depth + 1, parent, tail) : read_node(r, depth + 1, tail));
        tail = &(*tail)->next;
        parent->n_children++;
        SY_TRY(advance(r));
    }
cleanup:
    return st;
}

static sy_status read_node(reader *r, int32_t depth, sy__node **out)
{
    sy_status st = SY_OK;
    sy__node *node = NULL;
    SY_TRY(check_event(r, depth));
    SY_TRY(sy_alloc(1, sizeof *node, (void **)&node));
    node->line = event_line(r);
    if (r->event.type == YAML_SCALAR_EVENT) {
        node->kind = SY__SCALAR;
        node->plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        SY_TRY(take_text(r, &node->text));
    } else {
        node->kind = r->event.type == YAML_MAPPING_START_EVENT ? SY__MAP : SY__LIST;
        SY_TRY(read_children(r, depth, node));
    }
    *out = node;
    node = NULL;
cleanup:
    sy__node_destroy(&node);
    return st;
}

/* stream start, [document start, node, document end,] stream end */
static sy_status read_stream(reader *r, sy__node **out)
{
    sy_status st = SY_OK;
    sy__node *root = NULL;
    SY_TRY(advance(r));
    SY_TRY(advance(r));
    if (r->event.type == YAML_DOCUMENT_START_EVENT) {
        SY_TRY(advance(r));
        SY_TRY(read_node(r, 0, &root));
        SY_TRY(advance(r));
        SY_TRY(advance(r));
    }
    if (r->event.type != YAML_STREAM_END_EVENT) {
        st = sy__refuse(r->source, event_line(r), "a second YAML document begins here");
        goto cleanup;
    }
    *out = root;
    root = NULL;
cleanup:
    sy__node_destroy(&root);
    return st;
}

sy_status sy__yaml_read(const sy__source *source, const char *text, size_t text_bytes,
                        sy__node **out)
{
    sy_status st = SY_OK;
    reader r = {.source = source, .text = text, .text_bytes = text_bytes};
    if (text_bytes > MAX_TEXT_BYTES) {
        return sy__refuse(source, 0, "longer than %d bytes", MAX_TEXT_BYTES);
    }
    SY_REQUIRE(yaml_parser_initialize(&r.parser), SY_ERR_MEMORY, "out of memory while reading %s",
               source->name);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, text_bytes);
    st = read_stream(&r, out);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
cleanup:
    return st;
}
