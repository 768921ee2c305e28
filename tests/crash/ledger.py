# SPDX-License-Identifier: Apache-2.0
"""What was sent, acknowledged and received during a run, and what of it contradicts the contract.

A stream is a conversation or a durable topic.  A place is a message's `seq`, or an event's `offset`.
The ledger knows no protocol: clients write into it, `check` compares it with what the broker has at
the end.  The first word of a fault names the promise that was broken:

    lost        acknowledged, and not there
    twice       one id at two places, or a place that a member was given twice
    moved       not at the place, or not with the content, that the acknowledgement or a member was told
    invented    a message nobody sent
    hole        places are not contiguous
    order       one sender's messages in another order than it sent them
    missed      a member that follows a stream did not get a message
    position    an epoch changed, or a position of before was not taken
    refused     an answer that the contract does not allow
"""

import collections
import uuid

Row = collections.namedtuple("Row", "place id content")


class Ledger:
    def __init__(self):
        self.sent = {}  # id: (stream, sender, number, content)
        self.acked = {}  # id: place
        self.epochs = {}  # stream: epoch
        self.received = {}  # (member, stream): [Row], in the order of arrival
        self.starts = {}  # (member, stream): the place after which it follows; listeners have none
        self.loose = set()  # ids whose sender was refused something while they were on their way: in any order
        self.resent = self.refusals = 0
        self.faults = []

    def fault(self, promise, text):
        if len(self.faults) < 50:
            self.faults.append(f"{promise}: {text}")

    # -- what clients write

    def send(self, stream, sender, number, chance):
        """A new message of this sender; its id and content."""
        own = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        content = f"{sender} {number} " + "x" * chance.randrange(120)
        self.sent[own] = (stream, sender, number, content)
        return own, content

    def ack(self, own, place, content=None):
        stream, _, _, said = self.sent[own]
        if self.acked.setdefault(own, place) != place:
            self.fault("moved", f"{own} in {stream} was acknowledged at {self.acked[own]}, then at {place}")
        if content is not None and content != said:
            self.fault("moved", f"{own} in {stream} was acknowledged with another content")

    def refuse(self, own, code, retryable, on_their_way):
        self.refusals += 1
        self.loose.update(on_their_way)
        if not retryable:
            self.fault("refused", f"{own}: {code}")

    def epoch(self, stream, epoch, who):
        if self.epochs.setdefault(stream, epoch) != epoch:
            self.fault("position", f"{who}: {stream} had epoch {self.epochs[stream]}, now {epoch}")

    def follow(self, member, stream, place):
        """From now on this member is owed everything behind this place."""
        self.starts.setdefault((member, stream), place)

    def receive(self, member, stream, place, own, content):
        self.received.setdefault((member, stream), []).append(Row(place, own, content))

    # -- what is true in the end

    def check(self, final):
        """final: {stream: [Row]}, everything the broker has, in order.  Returns all faults."""
        for stream, rows in final.items():
            self._check_stream(stream, rows)
        for (member, stream), rows in self.received.items():
            if (member, stream) in self.starts:
                self._check_follower(member, stream, rows, final[stream])
            else:
                self._check_listener(member, stream, rows, final[stream])
        for (member, stream), start in self.starts.items():
            if (member, stream) not in self.received and len(final[stream]) > start:
                self.fault("missed", f"{member} got nothing of {stream}")
        return self.faults

    def _check_stream(self, stream, rows):
        found, newest = {}, {}
        for i, row in enumerate(rows):
            if row.place != i + 1:
                self.fault("hole", f"{stream} has place {row.place} where {i + 1} belongs")
                return
            if row.id in found:
                self.fault("twice", f"{row.id} is at {found[row.id]} and {row.place} of {stream}")
            found[row.id] = row.place
            said = self.sent.get(row.id)
            if said is None or said[0] != stream:
                self.fault("invented", f"{row.id} at {row.place} of {stream}")
                continue
            if said[3] != row.content:
                self.fault("moved", f"{row.id} at {row.place} of {stream} has another content")
            if row.id in self.loose:
                continue
            if newest.get(said[1], -1) >= said[2]:
                self.fault("order", f"{said[1]}: number {said[2]} behind {newest[said[1]]} in {stream}")
            newest[said[1]] = said[2]
        for own, place in self.acked.items():
            if self.sent[own][0] != stream:
                continue
            if own not in found:
                self.fault("lost", f"{own} of {stream} was acknowledged at {place} and is not there")
            elif found[own] != place:
                self.fault("moved", f"{own} of {stream} was acknowledged at {place} and is at {found[own]}")

    def _check_follower(self, member, stream, rows, final):
        expected = self.starts[member, stream] + 1
        for row in rows:
            if row.place < expected:
                self.fault("twice", f"{member} got {row.place} of {stream} again")
                return
            if row.place > expected:
                self.fault("missed", f"{member} got {row.place} of {stream} where {expected} belongs")
                return
            expected += 1
            if not self._same(member, stream, row, final):
                return
        if expected != len(final) + 1:
            self.fault("missed", f"{member} got {stream} up to {expected - 1} of {len(final)}")

    def _check_listener(self, member, stream, rows, final):
        newest = 0
        for row in rows:
            if row.place <= newest:
                self.fault("twice", f"{member} got {row.place} of {stream} after {newest}")
                return
            newest = row.place
            if not self._same(member, stream, row, final):
                return

    def _same(self, member, stream, row, final):
        if row.place <= len(final) and final[row.place - 1] == row:
            return True
        self.fault("moved", f"{member} was given {row.id} at {row.place} of {stream}, where "
                   f"{final[row.place - 1].id if row.place <= len(final) else 'nothing'} is")
        return False
