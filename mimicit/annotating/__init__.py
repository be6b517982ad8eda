"""From pictures, captions and clips to instruction–answer pairs, written by any model behind the OpenAI protocol.

`records` (what is known of each picture or clip) → `recipe` and `wording` (a request, named by its hash) →
`store` and `client` (an answer, kept before anything else) → `wording` and `gates` (pairs, or why not) → `writing`.
"""
