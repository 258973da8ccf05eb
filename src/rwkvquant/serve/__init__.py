"""An HTTP server with the API of OpenAI, for one text model (docs/server.md).

app.py, guard.py, sending.py    paths; who may use them; how an answer is sent: these import starlette
server.py       sockets and signals            the only file that imports uvicorn
grammar.py      answers that must be JSON      the only file that imports llguidance
chat.py, completions.py    the paths of OpenAI: from a request to jobs, and from pieces of text to an answer
conversation.py, tools.py  messages to a prompt; words, thinking and calls of tools in an answer
states.py       uploaded states, and sessions
page.py, page.html         the page at /: one file, and the headers that it is sent with
keeping.py      all of these in a folder, over a restart
scheduler.py    one thread that owns the model: it reads prompts and writes answers, side by side
sequence.py     one answer that grows
encoding.py     tokens of a text that begins as an earlier one
schema.py       the paths as an OpenAPI document
prefixes.py     states of texts that were read, so that the next request does not read them again
"""
