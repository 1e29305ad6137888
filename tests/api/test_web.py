"""The page at "/": what it is made of, and in a headless Chromium what it does. Screenshots go to $OCTAVO_SCREENSHOTS where
that is a folder."""
import os
import pathlib
import re
import shutil
import subprocess
import urllib.parse

import pytest
import requests

import browser
from conftest import CTX_SIZE, SANITIZED, wait_until

SHOTS = os.environ.get("OCTAVO_SCREENSHOTS")
FILES = {"/": "text/html", "/favicon.ico": "image/svg+xml", "/web/page.css": "text/css", "/web/cache.js": "text/javascript",
         "/web/chat.js": "text/javascript"}
needs_browser = pytest.mark.skipif(not browser.PROGRAM, reason="no chromium (Debian package chromium, or OCTAVO_CHROMIUM)")
# The browser is the slow part, and the page is the same for every build of the server.
needs_time = pytest.mark.skipif(SANITIZED, reason="the page is looked at with the release build")


@pytest.mark.parametrize("path", FILES)
def test_files(server, path):
    reply = requests.get(server.url + path)
    assert reply.status_code == 200
    assert reply.headers["Content-Type"].split(";")[0] == FILES[path]
    policy = dict(rule.split(" ", 1) for rule in reply.headers["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert requests.head(server.url + path).headers["Content-Length"] == str(len(reply.content))
    refused = requests.post(server.url + path, data="x")
    assert refused.status_code == 405 and "GET" in refused.headers["Allow"]


def test_switched_off(start):
    server = start("--no-ui", "--ctx-size", CTX_SIZE, "--kv-cache-bytes", 32 << 20)
    assert {requests.get(server.url + path).status_code for path in FILES} == {404}
    assert requests.get(server.url + "/health").status_code == 200
    server.stop()


def test_nothing_from_elsewhere(server):
    """No address of another host, and nothing that the policy would refuse; every link leads to a file that is there."""
    for path in FILES:
        text = requests.get(server.url + path).text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"\b(?:https?|wss?|ftp):|url\(|@import|importScripts|\beval\(|innerHTML", text), path
        if path == "/":
            assert not re.search(r"\s(?:on\w+|style)=|<style|<script(?! src)", text)
            links = re.findall(r'(?:src|href)="([^"]*)"', text)
            assert {urllib.parse.urljoin("/", link) for link in links} == FILES.keys() - {"/"}
            assert not any(link.startswith("/") for link in links)  # behind a proxy the page may be elsewhere


@pytest.mark.skipif(not shutil.which("node"), reason="no node")
@pytest.mark.parametrize("path", [p for p in FILES if p.endswith(".js")])
def test_scripts_parse(server, path, tmp_path):
    file = tmp_path / "script.js"
    file.write_text(requests.get(server.url + path).text)
    subprocess.run(["node", "--check", file], check=True)


def test_open_where_keys_are_needed(start):
    server = start("--api-key", "secret-1")
    assert all(requests.get(server.url + path).status_code == 200 for path in FILES)
    assert requests.get(server.url + "/metrics").status_code == 401


@pytest.fixture
def show():
    pages = []

    def make(*arguments, **more):
        pages.append(browser.Page(*arguments, **more))
        return pages[-1]
    yield make
    for page in pages:
        page.close()


def shoot(page, name):
    if SHOTS:
        page.screenshot(pathlib.Path(SHOTS) / f"{name}.png")


def assert_clean(page, server):
    assert page.faults == []
    assert all(url.startswith((server.url, "about:", "data:")) for url in page.urls), page.urls


def say(page, text):
    page.fill("#input", text)
    page.click("#send")


@needs_browser
@needs_time
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_chat(server, show, dark):
    page = show(server.url + "/", dark=dark)
    page.wait("document.querySelector('#state').innerText === 'ready'", "the page is ready")
    page.wait("document.querySelectorAll('#format option').length === 4", "the formats are listed")
    assert page.text("#model") == "smollm2"
    page.fill("#temperature", "0")
    page.fill("#system", "You answer in one sentence.")
    page.fill("#max-tokens", "24")
    say(page, "<b>Hi</b>")
    page.wait("document.querySelectorAll('.assistant footer').length === 1", "the first reply is complete")
    assert page.text(".user") == "<b>Hi</b>"  # what is typed is text
    expected = server.post("/v1/chat/completions", messages=[
        {"role": "system", "content": "You answer in one sentence."}, {"role": "user", "content": "<b>Hi</b>"}],
        temperature=0, max_completion_tokens=24).json()
    usage = expected["usage"]
    assert page.text(".assistant footer").startswith(f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens, ")
    shown = page.text(".assistant div")
    assert re.sub(r"\s+", " ", shown).strip() == re.sub(r"\s+", " ", expected["choices"][0]["message"]["content"]).strip()
    # The second question goes with the first and its reply.
    say(page, "And you?")
    page.wait("document.querySelectorAll('.assistant footer').length === 2", "the second reply is complete")
    second = page.run("document.querySelectorAll('.assistant footer')[1].innerText")
    assert int(second.split(" ")[0]) > usage["prompt_tokens"] + usage["completion_tokens"]
    shoot(page, f"chat-{'dark' if dark else 'light'}")
    assert_clean(page, server)


@needs_browser
@needs_time
def test_stop_and_the_cache_meanwhile(start, show):
    server = start("--ctx-size", 4096, "--kv-recent", 1, "--kv-cache-bytes", 256 << 20)
    page = show(server.url + "/")
    page.wait("document.querySelectorAll('#format option').length === 4", "the formats are listed")
    page.fill("#format", "o2")
    page.fill("#temperature", "0")

    def stopped_meanwhile():
        """False: the reply was over before it was looked at, or before it was stopped."""
        over = "document.querySelector('.assistant footer')"
        say(page, "Count from one to a thousand, in words. " * 12)
        page.wait(f"{over} || (document.querySelector('.assistant div').innerText.length > 40 && "
                  "document.querySelector('#sequences tbody').innerText.includes('o2') && "
                  "document.querySelector('#formats tbody').innerText.includes('recent'))",
                  "the reply has begun, the sequence and its sealed blocks are listed")
        running, bits = page.text("#running"), page.text("#bits")
        shoot(page, "running")
        if page.run(f"Boolean({over})"):
            return False
        page.click("#stop")
        page.wait(over, "the reply has ended")
        if "ended by you" not in page.text(".assistant footer"):
            return False
        assert running == "1" and float(bits) > 0
        return True

    for _ in range(10):
        if stopped_meanwhile():
            break
        page.click("#clear")
    else:
        raise AssertionError("ten replies were over too soon")
    wait_until(lambda: server.outcomes()["cancelled"] == 1, "the server knows")
    page.wait("document.querySelector('#sequences tbody').innerText.includes('No sequence')", "the sequence is gone")
    assert page.run("document.querySelector('#stop').hidden && !document.querySelector('#send').hidden")
    assert_clean(page, server)
    server.stop()


@needs_browser
@needs_time
def test_faults_are_shown(server, show):
    page = show(server.url + "/")
    page.wait("document.querySelector('#state').innerText === 'ready'", "the page is ready")
    say(page, "word " * (2 * CTX_SIZE))
    page.wait("document.querySelector('.assistant .fault')", "the server's refusal is shown")
    assert str(CTX_SIZE) in page.text(".assistant .fault")
    page.click("#clear")
    assert page.text("#messages") == ""
    page.fill("#max-tokens", "4")
    say(page, "Hi")
    page.wait("document.querySelector('.assistant footer')", "the next request is a good one")


@needs_browser
@needs_time
def test_key(start, show):
    server = start("--api-key", "secret-1", "--ctx-size", CTX_SIZE)
    page = show(server.url + "/")
    page.wait("document.querySelector('#state').innerText.includes('needs the API key')", "the page asks for the key")
    page.fill("#key", "secret-1")
    page.wait("document.querySelector('#state').innerText === 'ready'", "the key helps")
    page.fill("#max-tokens", "4")
    say(page, "Hi")
    page.wait("document.querySelector('.assistant footer')", "a reply comes")


@needs_browser
@needs_time
def test_phone(server, show):
    page = show(server.url + "/", width=390, height=780, phone=True)
    page.wait("document.querySelector('#state').innerText === 'ready'", "the page is ready")
    page.fill("#max-tokens", "16")
    say(page, "Hi")
    page.wait("document.querySelector('.assistant footer')", "a reply comes")
    shoot(page, "phone-chat")
    assert page.run("document.documentElement.scrollWidth <= 390")
    page.click("#show-cache")
    page.wait("document.querySelector('#cache').offsetWidth > 0 && document.querySelector('#chat').offsetWidth === 0", "the cache")
    page.wait("document.querySelector('#pool').width > 300", "it is drawn")
    shoot(page, "phone-cache")
    assert page.run("document.documentElement.scrollWidth <= 390")
    assert_clean(page, server)
