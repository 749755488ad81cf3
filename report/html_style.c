/* The style of the page: one set of colours for light, one for dark. Series colours keep apart for
   colour-blind readers; the load map runs from blue (starved) over a pale middle (even) to red
   (crowded), and an expert without a token has the colour of ink. */
#include <stdint.h>

#include "report/html_impl.h"

static const char style[] =
    ":root{--bg:#f6f7f9;--card:#fff;--ink:#1c2128;--soft:#5b6570;--rule:#dfe3e8;--grid:#e9ecf0;"
    "--track:#eef1f4;--c0:#1f6fb5;--c1:#d1611a;--c2:#2a8a57;--c3:#8553b5;--c4:#a87b00;--c5:#bf2f6b;"
    "--warn:#9a5b00;--warnbg:#fff6e5;--good:#226b43;--goodbg:#eaf6ee;--hover:rgba(30,50,80,.07)}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#12151a;--card:#1a1e25;--ink:#e3e7ec;"
    "--soft:#98a2ae;--rule:#2d333d;--grid:#262c35;--track:#252b34;--c0:#62a9e8;--c1:#f0935a;--c2:#"
    "5fc48d;"
    "--c3:#b892e3;--c4:#dcb548;--c5:#ec77a6;--warn:#f1c071;--warnbg:#2c2413;--good:#7fd3a1;"
    "--goodbg:#15281d;--hover:rgba(200,215,235,.09)}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"
    "\"Segoe UI\",Roboto,\"Helvetica Neue\",\"DejaVu Sans\",sans-serif}\n"
    "header,main,footer{max-width:1120px;margin:0 auto;padding:0 24px}\n"
    "header{padding-top:32px}\n"
    ".brand{margin:0;color:var(--soft);font-size:13px;letter-spacing:.04em}\n"
    "h1{margin:0 0 16px;font-size:28px;line-height:1.25;font-weight:650;overflow-wrap:anywhere}\n"
    "h2{margin:40px 0 12px;font-size:19px;font-weight:650}\n"
    "h3{margin:0;font-size:14px;font-weight:650;overflow-wrap:anywhere}\n"
    "p{margin:0 0 10px}\n"
    ".note,.empty,footer{color:var(--soft);font-size:13px}\n"
    "footer{padding-top:32px;padding-bottom:40px}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(104px,1fr));gap:10px}\n"
    ".tile,.card{background:var(--card);border:1px solid var(--rule);border-radius:8px}\n"
    ".tile{padding:10px 14px}\n"
    ".tile b{display:block;font-size:21px;font-weight:650;line-height:1.3;"
    "font-variant-numeric:tabular-nums}\n"
    ".tile "
    "span{display:block;color:var(--soft);font-size:12.5px;line-height:1.35;overflow-wrap:anywhere}"
    "\n"
    ".state{margin:0 0 8px;color:var(--soft)}.state b{color:var(--ink);font-weight:650;"
    "margin-right:6px}\n"
    ".state i,th i,.bars i{display:inline-block;width:10px;height:10px;border-radius:3px;"
    "margin-right:7px}\n"
    ".pill{display:inline-block;padding:1px 10px;border-radius:10px;font-size:13px;font-weight:600;"
    "margin-right:6px}\n"
    ".pill.good{background:var(--goodbg);color:var(--good)}"
    ".pill.live{background:var(--c0);color:var(--card)}"
    ".pill.dead{background:var(--warnbg);color:var(--warn)}"
    ".pill.rest{background:var(--track);color:var(--soft)}\n"
    ".bar{height:6px;border-radius:3px;background:var(--track);margin:10px 0 0;overflow:hidden}"
    ".bar div{height:100%;background:var(--c0)}\n"
    "code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\",monospace}\n"
    ".tiles{margin-top:16px}\n"
    ".words{margin:16px 0 0;padding:12px 16px;border-radius:8px;background:var(--warnbg);"
    "color:var(--warn)}.words ul{margin:4px 0 0;padding-left:18px}\n"
    ".words li{margin:3px 0;overflow-wrap:anywhere}\n"
    ".words.good{background:var(--goodbg);color:var(--good)}\n"
    ".grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));"
    "gap:16px}\n"
    ".card{padding:14px 16px 10px;min-width:0}\n"
    ".card.wide{margin-bottom:16px}.card.wide svg+svg{display:none}"
    "@media(min-width:700px){.card.wide svg+svg{display:block}"
    ".card.wide svg:has(+svg){display:none}}\n"
    ".head{display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline;margin-bottom:6px}\n"
    ".unit{color:var(--soft);font-size:12.5px}\n"
    ".legend{margin-left:auto;display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12.5px;"
    "color:var(--soft)}\n"
    ".legend i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;"
    "vertical-align:middle}\n"
    ".foot{margin:4px 0 0;color:var(--soft);font-size:12px}\n"
    "svg{display:block;width:100%;height:auto}\n"
    ".grid{stroke:var(--grid);fill:none}.axis{stroke:var(--soft);fill:none}\n"
    ".tick,.name{fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}\n"
    ".line{fill:none;stroke-width:1.7;stroke-linejoin:round}\n"
    ".faint{stroke-width:1;opacity:.35}\n"
    ".band{stroke:none;opacity:.16}\n"
    ".even{stroke:var(--soft);stroke-dasharray:4 4;fill:none}\n"
    ".h{opacity:0}.h rect{fill:transparent;pointer-events:all}.h:hover{opacity:1}"
    ".h path{stroke:var(--soft);opacity:.5;pointer-events:none}"
    ".h circle{stroke:var(--card);stroke-width:1.5;pointer-events:none}"
    ".h text{font-size:12px;fill:var(--ink);paint-order:stroke;stroke:var(--card);stroke-width:4px;"
    "stroke-linejoin:round;pointer-events:none;font-variant-numeric:tabular-nums}\n"
    ".area{opacity:.85}\n"
    ".bars td{padding:5px 8px}.bars td:first-child{white-space:normal}"
    ".bars .track{width:34%;min-width:60px}"
    ".track div{height:10px;border-radius:3px;min-width:1px}\n"
    "td.new{background:var(--warnbg);color:var(--warn)}\n"
    ".diff td{white-space:normal;overflow-wrap:anywhere}\n"
    ".map path{fill:none;stroke-width:1;shape-rendering:crispEdges}\n"
    ".line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}"
    ".line.c3{stroke:var(--c3)}.line.c4{stroke:var(--c4)}.line.c5{stroke:var(--c5)}\n"
    ".band.c0,.dot.c0{fill:var(--c0)}.band.c1,.dot.c1{fill:var(--c1)}"
    ".band.c2,.dot.c2{fill:var(--c2)}.band.c3,.dot.c3{fill:var(--c3)}"
    ".band.c4,.dot.c4{fill:var(--c4)}.band.c5,.dot.c5{fill:var(--c5)}\n"
    ".h .c0{fill:var(--c0)}.h .c1{fill:var(--c1)}.h .c2{fill:var(--c2)}.h .c3{fill:var(--c3)}"
    ".h .c4{fill:var(--c4)}.h .c5{fill:var(--c5)}\n"
    "i.c0,div.c0{background:var(--c0)}i.c1,div.c1{background:var(--c1)}"
    "i.c2,div.c2{background:var(--c2)}i.c3,div.c3{background:var(--c3)}"
    "i.c4,div.c4{background:var(--c4)}i.c5,div.c5{background:var(--c5)}\n"
    ".map .m0{stroke:var(--ink)}svg.key{width:auto;height:34px;max-width:100%;margin-bottom:12px}\n"
    ".scroll{overflow-x:auto}\n"
    "table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--rule);"
    "white-space:nowrap}\n"
    "th{color:var(--soft);font-weight:500;font-size:13px}\n"
    "th:first-child,td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere}\n"
    "tr:last-child td{border-bottom:0}\n"
    "td small{color:var(--soft)}\n"
    ".share{width:auto}.share td+td{background:color-mix(in srgb,var(--c0) "
    "var(--share),var(--card))}\n"
    "details{background:var(--card);border:1px solid var(--rule);border-radius:8px;"
    "padding:10px 16px}\n"
    "details.more{margin-top:16px;background:none;border:0;padding:0}\n"
    "details.more>summary{margin-bottom:12px}\n"
    "summary{cursor:pointer;color:var(--soft);font-size:13px}\n"
    "pre{margin:8px 0 0;overflow-x:auto;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"
    "\"DejaVu Sans Mono\",monospace}\n"
    "@media(max-width:600px){header,main,footer{padding:0 14px}header{padding-top:20px}"
    ".tick,.name{font-size:15px}.h text{font-size:17px}.card{padding:12px 10px 8px}"
    "th,td{padding:6px 7px}table:not(.share) td:first-child{min-width:8em}svg{overflow:visible}}\n"
    "@media print{body{background:#fff}.card,.tile,details{break-inside:avoid}}\n";

typedef struct rgb {
    int32_t r, g, b;
} rgb;

enum { ANCHORS = 5 };

static const rgb light_map[ANCHORS] = {{0x25, 0x56, 0x98},
                                       {0x8a, 0xb4, 0xd9},
                                       {0xf1, 0xf1, 0xee},
                                       {0xef, 0xa8, 0x78},
                                       {0xb0, 0x2e, 0x28}};
static const rgb dark_map[ANCHORS] = {{0x5a, 0xa6, 0xf0},
                                      {0x2f, 0x5a, 0x86},
                                      {0x2a, 0x2e, 0x34},
                                      {0x8a, 0x53, 0x2f},
                                      {0xf2, 0x6a, 0x52}};

static int32_t between(int32_t a, int32_t b, double share)
{
    return (int32_t)(a + (b - a) * share + 0.5);
}

/* The classes of a map from little to much: the card's colour, to that of the first line. */
static void write_tones(sy_text *out)
{
    for (int32_t c = 0; c < SY__TONES; c++) {
        sy_text_printf(out, ".map .s%d{stroke:color-mix(in srgb,var(--c0) %d%%,var(--track))}", c,
                       100 * c / (SY__TONES - 1));
    }
    sy_text_puts(out, "\n");
}

/* The classes of the load map, by interpolation between five colours. */
static void write_map(sy_text *out, const rgb anchor[ANCHORS])
{
    for (int32_t c = 1; c < SY__LOAD_COLOURS; c++) {
        double at = (c - 1) * (ANCHORS - 1.0) / (SY__LOAD_COLOURS - 2);
        int32_t i = at < ANCHORS - 1 ? (int32_t)at : ANCHORS - 2;
        const rgb *a = &anchor[i], *b = &anchor[i + 1];
        sy_text_printf(out, ".map .m%d{stroke:#%02x%02x%02x}", c, between(a->r, b->r, at - i),
                       between(a->g, b->g, at - i), between(a->b, b->b, at - i));
    }
}

void sy__page_style(sy_text *out)
{
    sy_text_puts(out, style);
    write_tones(out);
    write_map(out, light_map);
    sy_text_puts(out, "\n@media(prefers-color-scheme:dark){");
    write_map(out, dark_map);
    sy_text_puts(out, "}\n");
}
