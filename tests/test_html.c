/* tests/test_html.c - pages: well-formed whatever is put in, and hostile texts stay texts. */
#include "core/html.h"
#include "core/rng.h"
#include "core/text.h"
#include "tests/unit.h"

/* Every tag that opens closes in order, and attributes are quoted: a reader of the subset that html.c writes. */
static void assert_well_formed(const Buf *page) {
    static const char *const VOID[] = {"meta", "path", "rect", "circle", "!DOCTYPE"};
    char open[32][16];
    size_t depth = 0;
    assert_true(buf_ok(page, NULL) == ERR_OK);
    assert_int_equal(text_utf8_prefix(page->data, page->len), page->len);
    for (const char *s = page->data; *s;) {
        if (*s != '<') {
            assert_true(*s != '>' || depth == 0 || strcmp(open[depth - 1], "style") == 0);
            s++;
            continue;
        }
        const bool closing = s[1] == '/';
        const char *name = s + 1 + closing;
        const size_t n = strcspn(name, " />");
        char tag[16];
        assert_true(n > 0 && n < sizeof tag);
        memcpy(tag, name, n);
        tag[n] = 0;
        bool quoted = false;
        for (s = name + n; *s && (quoted || *s != '>'); s++) {
            if (*s == '"') quoted = !quoted;
            assert_true(*s != '<');
        }
        assert_true(*s == '>' && !quoted);
        bool alone = s[-1] == '/';
        for (size_t i = 0; i < sizeof VOID / sizeof *VOID; i++) alone = alone || strcmp(tag, VOID[i]) == 0;
        s++;
        if (closing) {
            assert_true(depth > 0);
            assert_string_equal(open[--depth], tag);
        } else if (!alone) {
            assert_true(depth < 32);
            memcpy(open[depth++], tag, sizeof tag);
        }
    }
    assert_int_equal(depth, 0);
}

static void test_escape(void **state) {
    (void)state;
    Buf out = {0};
    const char hostile[] = "<b x='\"'>&\x01\x7f\xff\xe2\x80\xae\n\xc3\xa9";
    html_escape(&out, hostile, sizeof hostile - 1);
    assert_string_equal(out.data, "&lt;b x=&#39;&quot;&#39;&gt;&amp;??\xef\xbf\xbd?\n\xc3\xa9");
    buf_free(&out);
}

static void test_page(void **state) {
    (void)state;
    Buf page = {0};
    const char *hostile = "</section><script>alert(1)</script>";
    const char *head[] = {"name", hostile}, *cells[] = {hostile, "12 %", "x", NULL};
    const double edges[] = {0, 1, 2, 4}, counts[] = {3, NAN, 7, 0};
    const double x[] = {0.01, 1, NAN, 100, -3}, y[] = {1, INFINITY, 2, -5, 4};
    const char *labels[] = {hostile, NULL, "a", "b", "c"};
    const HtmlBar bars[] = {{hostile, hostile, 0.5, 0.4, 0.6, true}, {"none", NULL, NAN, 0, 0, false}};
    html_begin(&page, hostile, hostile);
    html_text(&page, "%s %d", hostile, 7);
    html_section(&page, hostile);
    html_table(&page, head, cells, 2, 2);
    html_bars(&page, bars, 2, 0);
    html_heat(&page, "true", head, 2, hostile, head, 2, counts);
    html_histogram(&page, hostile, "x", edges, counts, 3);
    for (int log_x = 0; log_x < 2; log_x++) {
        const HtmlSeries series[] = {{hostile, x, y, labels, 5, HTML_LINE},
                                     {NULL, x, y, NULL, 5, HTML_DOTS},
                                     {"s", x, y, labels, 5, HTML_STEPS}};
        const HtmlPlot plot = {.title = hostile,
                               .x_title = hostile,
                               .y_title = hostile,
                               .series = series,
                               .series_count = 3,
                               .log_x = log_x,
                               .diagonal = true};
        html_plot(&page, &plot);
    }
    html_end(&page);
    assert_well_formed(&page);
    assert_null(strstr(page.data, "<script"));
    assert_null(strstr(page.data, "http://"));
    assert_null(strstr(page.data, "nan\""));
    assert_null(strstr(page.data, "inf\""));
    assert_non_null(strstr(page.data, "<td class=\"n\">12 %</td>"));
    buf_free(&page);
}

/* Numbers of any size, any number of them: drawn inside the picture, or not at all. */
static void test_random_plots(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 300; round++) {
        const uint64_t key = rng_key(7, "plots", round);
        double x[20], y[20];
        const size_t n = rng_bits(key, 0) % 20;
        for (size_t i = 0; i < n; i++) {
            x[i] = rng_normal(key, i + 1) * pow(10, 200 * (rng_uniform(key, i + 40) - 0.5));
            y[i] = rng_normal(key, i + 80) * pow(10, round % 3 ? 2 : 300 * (rng_uniform(key, i + 120) - 0.5));
        }
        const HtmlSeries series = {"r", x, y, NULL, n, (HtmlMark)(round % 3)};
        const HtmlPlot plot = {
            .series = &series, .series_count = 1, .log_x = round & 1, .diagonal = round & 2};
        Buf page = {0};
        html_begin(&page, "t", NULL);
        html_plot(&page, &plot);
        html_end(&page);
        assert_well_formed(&page);
        assert_true(page.len < 20000); /* ticks are few */
        for (const char *s = page.data; (s = strstr(s, "cx=\"")); s++) {
            double at;
            assert_int_equal(sscanf(s, "cx=\"%lf\"", &at), 1); /* NOLINT(cert-err34-c): checked below */
            assert_true(at >= 0 && at <= 640);
        }
        buf_free(&page);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escape),
        cmocka_unit_test(test_page),
        cmocka_unit_test(test_random_plots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
