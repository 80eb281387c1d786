"""Documents to text: superscripts, formulas, feeds and other XML, columns, and PDFs whose lines cut words."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import body_of, pdf, pdf_of_lines, read
from tool_servers import page

from arpo_tools import ToolStatus
from arpo_tools.pages.pdf_text import join_lines
from arpo_tools.pages.worker_program import answer_request, normalize_text

pytest.importorskip("resiliparse", reason="the extra `web` is not installed")
pytest.importorskip("pypdfium2", reason="the extra `web` is not installed")

from resiliparse.parse.html import HTMLTree


def text_of(document: str, kind: str = "html") -> str:
    found = answer_request({"kind": kind, "charset": "", "is_thorough": False}, document.encode())
    return found.get("error") or found["text"]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("10<sup>6</sup> m", "10^6 m"),
        ("10<sup>−6</sup>, 10<sup>-6</sup>, 10<sup>+6</sup>", "10^-6, 10^-6, 10^+6"),
        ("10<sup> 6 </sup>", "10^6"),
        ("10<sup><a href=x>6</a></sup>", "10^6"),
        ("<i>x</i><sup>2</sup> + <i>y</i><sup>n</sup>", "x^2 + y^n"),
        ("km<sup>2</sup>, m<sup>3</sup>", "km^2, m^3"),
        ("2<sup>10</sup>24", "2^{10}24"),
        ("x<sup>n+1</sup>", "x^{n+1}"),
        ("2<sup>3<sup>2</sup></sup>", "2^{3^2}"),
        ("1.5<sup>0.5</sup>", "1.5^0.5"),
        ("H<sub>2</sub>O and C<sub>6</sub>H<sub>12</sub>O<sub>6</sub>", "H2O and C6H12O6"),
        ("SO<sub>4</sub><sup>2−</sup>, Ca(OH)<sub>2</sub>", "SO4^2-, Ca(OH)2"),
        ("log<sub>2</sub> 8, log<sub>2</sub>8", "log_2 8, log_{2}8"),
        ("x<sub>1</sub>, a<sub>10</sub>, v<sub>i</sub>", "x_1, a_10, v_i"),
        ("2<sup>1</sup>/<sub>2</sub> cups, <sup>3</sup>⁄<sub>4</sub>", "2 1/2 cups, 3⁄4"),
        ("19<sup>th</sup> century, 1<sup>st</sup>, 1<sup>er</sup>", "19th century, 1st, 1er"),
        ("Paris<sup>[1]</sup>, Coca<sup>TM</sup>, x<sup>*</sup>", "Paris[1], CocaTM, x*"),
        ("x<sup></sup>", "x"),
        ("<math><msup><mi>x</mi><mn>2</mn></msup><mo>+</mo><mfrac><mi>a</mi><mi>b</mi></mfrac></math>", "x^2+a/b"),
        ("<math alttext='x^{2}'><mi>x</mi></math>", "x^{2}"),
    ],
)
def test_superscripts_and_subscripts_do_not_run_into_what_they_stand_at(markup, text):
    assert text_of(f"<p>{markup}</p>") == text


@pytest.mark.parametrize("markup", ["<sup>" * 3000, "<sup>x</sup>" * 30_000, "<math>" * 3000, "<sub><sup>" * 2000])
def test_hostile_scripts_are_read_in_time(markup):
    start = time.monotonic()
    text_of(markup)
    assert time.monotonic() - start < 10


def test_resiliparse_still_lists_elements_in_quadratic_time():
    """When this fails, `page_markup.mark_scripts` can work on the tree: resiliparse 2.0.1 takes 1 s here."""
    tree = HTMLTree.parse("<sup>x</sup>" * 400)
    start = time.monotonic()
    assert len(list(tree.body.query_selector_all("sup"))) == 400
    assert time.monotonic() - start > 0.05


RSS = """<?xml version="1.0"?><rss version="2.0"><channel><title>News</title><description>All of it</description>
<item><title>A &amp; B won</title><link>http://x/1</link><pubDate>Mon, 1 Jan 2024</pubDate><wins>5</wins>
<description><![CDATA[<p>Hello <b>w</b>orld, 10<sup>6</sup></p><p>two</p>]]></description></item>
<item><title>Second</title><guid>2</guid></item></channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom"><title>News</title>
<entry><title type="html">A &amp;amp; B won</title>
<link rel="self" href="http://x/self"/><link href="http://x/1"/><updated>2024-01-02</updated><author><name>Ada</name>
</author><content type="xhtml"><div><p>Hello</p><p>two</p></div></content></entry>
<entry><title>Second</title></entry></feed>"""


@pytest.mark.parametrize(
    ("content_type", "feed"),
    [
        ("application/rss+xml", RSS),
        ("application/xml", RSS),
        ("text/xml; charset=utf-8", RSS),
        ("text/html", RSS),
        ("text/plain", RSS),
        ("", RSS),
        ("application/atom+xml", ATOM),
        ("application/xml", ATOM),
    ],
)
async def test_a_feed_is_read_item_by_item(content_type, feed):
    result = await read(page(feed, content_type))
    assert result.text.startswith("News\n")
    lines = result.text.splitlines()
    for line in ("A & B won", "http://x/1", "two", "Second"):
        assert line in lines
    assert "<" not in result.text
    assert lines.index("two") < lines.index("Second")


def test_a_feeds_item_shows_title_link_date_author_and_content():
    assert text_of(ATOM, "xml") == "A & B won\nhttp://x/1\n2024-01-02\nAuthor: Ada\nHello\n\ntwo\n\nSecond"
    assert text_of(RSS, "xml").startswith(
        "All of it\n\nA & B won\nhttp://x/1\nMon, 1 Jan 2024\nHello world, 10^6\n\ntwo\n\nSecond"
    )


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("<t><a>wins</a><b>5</b><n>1</n><d>2024-01-02</d></t>", "a: wins\nb: 5\nn: 1\nd: 2024-01-02"),
        ("<r><t><n>A</n><w>5</w></t><t><n>B</n></t></r>", "n: A\nw: 5\n\nn: B"),
        ('<r><row a="1" b="2"/><row a="3"/></r>', "row (a=1, b=2)\nrow (a=3)"),
        ("<d><para>It <em>is</em> so</para></d>", "It is so"),
        ("<r xmlns:x='u'><x:a>1</x:a></r>", "a: 1"),
        ("<r><a>AT&T &nbsp;&eacute; &foo;</a></r>", "a: AT&T é &foo;"),
        ("<r><a><![CDATA[x & <y>]]></a></r>", "a: x & <y>"),
        ("<r><a>x</a><b>y", "a: x\nb: y"),
        ("<r><a>x</a><b>y</c><d>z</d></r>", "a: x\nb: y\n\nz"),
        ('<!DOCTYPE r [<!ENTITY a "boom"><!ENTITY b "&a;&a;">]><r><y>&b;</y></r>', "y: &b;"),
        ('<!DOCTYPE r SYSTEM "file:///etc/passwd"><r><y>1</y></r>', "y: 1"),
        ("<svg><path d='M0 0'/><text>label</text></svg>", "label"),
        ("<a>" * 5000 + "deep" + "</a>" * 5000, "a: deep"),
        ("<html xmlns='x'><body><p>one</p><p>two</p></body></html>", "one\n\ntwo"),
        ("no XML at all", "no XML at all"),
    ],
)
def test_xml_is_one_value_a_line(document, text):
    assert text_of(document, "xml") == text


@pytest.mark.parametrize("encoding", ["gbk", "windows-1251", "utf-16", "iso-8859-1"])
async def test_xml_is_decoded_as_it_says(encoding):
    word = {"gbk": "甄嬛", "windows-1251": "мир"}.get(encoding, "é")
    document = f"<?xml version='1.0' encoding='{encoding}'?><r><a>{word}</a></r>".encode(encoding)
    assert body_of(await read(page(document, "application/xml"))) == f"a: {word}"


COLUMNS = "  name   wins\n    A      5\n\tB     12\n\ndef f():\n    return 1"


@pytest.mark.parametrize("frame", ["<pre>{}</pre>", "<pre><code>{}</code></pre>", "<div><pre>\n{}</pre></div>"])
async def test_preformatted_text_keeps_indentation_and_columns(frame):
    assert body_of(await read(page(f"<body>{frame.format(COLUMNS)}</body>"))) == COLUMNS


@pytest.mark.parametrize("content_type", ["text/plain", "text/csv", "text/markdown", "application/json"])
async def test_plain_text_keeps_indentation_and_columns(content_type):
    assert body_of(await read(page(COLUMNS.replace("\n", "\r\n"), content_type))) == COLUMNS


def test_text_that_is_not_preformatted_has_single_spaces():
    assert text_of("<p>a   b\n  c</p><p>d</p>") == "a b c\n\nd"


@given(st.text(st.characters()))
def test_tidied_text_has_no_control_characters_and_is_stable(text):
    tidy = normalize_text(text)
    tidy.encode()
    assert not [letter for letter in tidy if letter < " " and letter not in "\n\t"]
    assert normalize_text(tidy) == tidy


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("the inter\x02national court", "the international court"),
        ("the inter\ufffenational court", "the international court"),
        ("the inter-\r\nnational court", "the international court"),
        ("Bun\x02des\x02tag", "Bundestag"),
        ("(inter\x02national)", "(international)"),
        ("well\x02known", "well-known"),
        ("state-of-the\x02art", "state-of-the-art"),
        ("re\x02sign, re-sign, re-sign", "re-sign, re-sign, re-sign"),
        ("co\x02operate, cooperate", "cooperate, cooperate"),
        ("Jean\x02Paul and F\x0216", "Jean-Paul and F-16"),
        ("NA\x02TO", "NA-TO"),
        ("2019-\r\n2020, pp. 12–\r\n14", "2019-2020, pp. 12–14"),
        ("http://x.org/a\x02b.html", "http://x.org/a-b.html"),
        ("www.x.org/a\x02b", "www.x.org/a-b"),
        ("http://x.org/a/\r\nb.html for", "http://x.org/a/b.html for"),
        ("http://x.org/a?b=\r\nc&d", "http://x.org/a?b=c&d"),
        ("http://x.org/a_\r\nb", "http://x.org/a_b"),
        ("see http://x.org/\r\nNext we", "see http://x.org/\r\nNext we"),
        ("see http://x.org/a.\r\nNext we", "see http://x.org/a.\r\nNext we"),
        ("soft\xad\r\nhyphen and so\xadft", "softhyphen and soft"),
        ("a dash -\r\nthen\r\n- an item", "a dash -\r\nthen\r\n- an item"),
        ("пере\x02нос", "перенос"),
    ],
)
def test_what_a_line_of_a_pdf_has_cut_is_put_together(text, whole):
    assert join_lines(text) == whole


async def test_a_pdf_whose_lines_cut_words_and_addresses_is_read_whole():
    document = pdf_of_lines("the inter-", "national court of", "1945-", "1946, see http://x.org/a-", "b.html today")
    text = body_of(await read(page(document, "application/pdf")))
    assert "international court" in text
    assert "1945-1946" in text
    assert "http://x.org/a-b.html today" in text


async def test_a_pdf_without_lines_that_cut_is_as_before():
    result = await read(page(pdf("first page", "second page"), "application/pdf"))
    assert result.status is ToolStatus.OK
    assert result.text.split("\n\n")[-2:] == ["first page", "second page"]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>soft&shy;hyphen, zero\u200bwidth, \ufeffmark</p>", "softhyphen, zerowidth, mark"),
        ("<p>5&nbsp;km, 1\u202f000</p>", "5 km, 1 000"),
        ("<p>\U0001f469\u200d\U0001f467 नि\u200dष</p>", "\U0001f469\u200d\U0001f467 नि\u200dष"),
        ("<select><option>Rome</option><option>Paris</option></select>", "Rome Paris"),
        ("<details><summary>Answer</summary>42</details>", "Answer 42"),
        ("<fieldset><legend>Name</legend>Ada</fieldset>", "Name Ada"),
    ],
)
def test_words_are_neither_cut_nor_joined_by_what_nobody_sees(markup, text):
    assert " ".join(text_of(markup).split()) == text
