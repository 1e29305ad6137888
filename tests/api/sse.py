"""Server-sent events as they come over the wire."""
import json


def events_of(reply):
    """(name, data) of every event of a reply whose events are named."""
    assert reply.status_code == 200, reply.text
    events = []
    for block in reply.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        assert name.startswith("event: ") and data.startswith("data: "), block
        events.append((name[7:], json.loads(data[6:])))
    return events


def events(server, path, **body):
    """The data of every event of a stream whose events have no names, but for the mark at its end."""
    reply = server.post(path, **body)
    assert reply.status_code == 200, reply.text
    blocks = reply.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""] and all(block.startswith("data: ") for block in blocks[:-1])
    return [json.loads(block[6:]) for block in blocks[:-2]]
