"""Where the numbers of a run go, and the page that shows them."""
