"""Checks that every link inside a built site leads to a page and a place.

python docs/_tools/check_links.py docs/_build/html
"""

import html.parser
import pathlib
import sys
import urllib.parse


class Page(html.parser.HTMLParser):
  """The links of a page, and the places that a link may name."""

  def __init__(self, text: str):
    """Reads the page."""
    super().__init__()
    self.links: list[str] = []
    self.places: set[str] = set()
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    """Notes what one tag links to, and its id."""
    del tag
    for name, value in attrs:
      if name in ("href", "src") and value:
        self.links.append(value)
      elif name in ("id", "name") and value:
        self.places.add(value)


def broken(site: pathlib.Path) -> list[str]:
  """Returns a line for each link inside the site that leads nowhere."""
  site = site.resolve()
  pages = {
    path: Page(path.read_text())
    for path in site.rglob("*.html")
    if "_static" not in path.parts  # templates of the theme
  }
  lines = []
  for path, page in pages.items():
    for link in page.links:
      parts = urllib.parse.urlsplit(link)
      if parts.scheme or parts.netloc:
        continue
      target = path
      if parts.path:
        target = (path.parent / urllib.parse.unquote(parts.path)).resolve()
      place = urllib.parse.unquote(parts.fragment)
      missing = not target.is_file() or (
        place and target in pages and place not in pages[target].places
      )
      if missing:
        lines.append(f"{path.relative_to(site)}: {link}")
  return sorted(set(lines))


def main() -> None:
  """Prints the broken links; the exit status is 1 where there are some."""
  site = pathlib.Path(sys.argv[1])
  lines = broken(site)
  print("\n".join(lines) or f"every link inside {site} leads somewhere")
  sys.exit(bool(lines))


if __name__ == "__main__":
  main()
