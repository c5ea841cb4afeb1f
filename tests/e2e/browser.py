"""A browser for tests: cookies, forms and redirects over HTTP, and nothing else.

It stops before an address of which `stop` is the beginning, and gives it instead of following it.
"""

import html
import http.cookiejar
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


class Browser:
    def __init__(self, authority=None):
        context = ssl.create_default_context(cafile=authority) if authority else ssl.create_default_context()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
            urllib.request.HTTPSHandler(context=context),
            _NoRedirect(),
        )
        self.address, self.page, self.status, self.headers = "", "", 0, {}

    def go(self, address, fields=None, *, stop="http://127.0.0.1:1/", headers=None):
        """Open a page, or send a form; follows redirects. The address at which it stopped, or empty."""
        data = urllib.parse.urlencode(fields).encode() if fields is not None else None
        for _ in range(12):
            if address.startswith(stop):
                return address
            request = urllib.request.Request(address, data=data, headers=headers or {})
            try:
                answer = self._opener.open(request, timeout=20.0)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                self.address, self.status, self.headers = address, answer.status, dict(answer.headers)
                self.page = answer.read().decode()
            if self.status not in {301, 302, 303, 307, 308}:
                return ""
            address, data = (
                urllib.parse.urljoin(address, self.headers.get("Location", self.headers.get("location"))),
                None,
            )
        raise AssertionError("too many redirects")

    def form(self, **fields):
        """Action and fields of the page's first form, with `fields` filled in."""
        found = re.search(r'<form[^>]*action="([^"]*)"[^>]*>(.*?)</form>', self.page, re.DOTALL)
        assert found, self.page
        values = {}
        for tag in re.findall(r"<input[^>]*>", found[2]):
            attributes = dict(re.findall(r'(\w+)="([^"]*)"', tag))
            values[attributes["name"]] = html.unescape(attributes.get("value", ""))
        return urllib.parse.urljoin(self.address, html.unescape(found[1])), {**values, **fields}
