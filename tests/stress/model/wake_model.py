#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Explicit-state check of the ready stack and park/wake protocol of runtime/worker.c.

The model is view-based weak memory (RC11 without load buffering): stale reads are allowed, read-modify-writes
read the newest value, release and acquire transfer views, release sequences run through read-modify-writes.
libuv's uv_async_send() and uv__async_io() are modelled step by step, with a stale wake in flight at
the start and up to two unrelated loop events.

Every variant has an expectation.  The proposed protocol must never lose a wake-up; each weakened variant must
lose one, which shows that the checker can see the fault and that the rule it breaks is needed.  The exit status
is 0 only if all expectations hold.  docs/memory-model.md explains the names.

Usage: wake_model.py
"""
import sys

sys.setrecursionlimit(1 << 20)
LOCS = ['ready', 'mhead', 'link0', 'link1', 'pending', 'efd', 'sc']
L = {n: i for i, n in enumerate(LOCS)}
NL = len(LOCS)
Z = tuple([0] * NL)
def join(a, b): return tuple(max(x, y) for x, y in zip(a, b))
def setv(v, l, t): v = list(v); v[l] = t; return tuple(v)

class M:
    """One state: mem[loc] = tuple((value, view)), views[tid], pcs[tid], regs[tid]"""
    __slots__ = ('mem', 'views', 'pcs', 'regs', 'glob')
    def __init__(s, mem, views, pcs, regs, glob): s.mem, s.views, s.pcs, s.regs, s.glob = mem, views, pcs, regs, glob
    def key(s): return (s.mem, s.views, s.pcs, s.regs, s.glob)
    def upd(s, t, pc=None, reg=None, view=None, mem=None, glob=None):
        n = M(s.mem if mem is None else mem, s.views, s.pcs, s.regs, s.glob if glob is None else glob)
        if pc is not None: n.pcs = s.pcs[:t] + (pc,) + s.pcs[t+1:]
        if reg is not None: n.regs = s.regs[:t] + (reg,) + s.regs[t+1:]
        if view is not None: n.views = s.views[:t] + (view,) + s.views[t+1:]
        return n
def reads(s, t, loc, acq):
    l = L[loc]; v = s.views[t]; out = []
    for ts in range(v[l], len(s.mem[l])):
        val, mv = s.mem[l][ts]; nv = setv(v, l, ts)
        if acq: nv = join(nv, mv)
        out.append((val, nv))
    return out
def rmw(s, t, loc, f, acq, rel):
    """f(old) -> new or None (CAS failure: acts as an acquire read of the newest value)."""
    l = L[loc]; old, mv = s.mem[l][-1]; ts = len(s.mem[l]); v = s.views[t]
    new = f(old)
    if new is None:
        nv = setv(v, l, ts - 1); nv = join(nv, mv) if acq else nv
        return old, s.mem, nv
    nv = join(v, mv) if acq else v
    nv = setv(nv, l, ts)
    msgv = join(mv, nv) if rel else join(mv, setv(Z, l, ts))
    mem = s.mem[:l] + (s.mem[l] + ((new, msgv),),) + s.mem[l+1:]
    return old, mem, nv
def write(s, t, loc, val, rel):
    l = L[loc]; ts = len(s.mem[l]); nv = setv(s.views[t], l, ts)
    mv = nv if rel else setv(Z, l, ts)
    return s.mem[:l] + (s.mem[l] + ((val, mv),),) + s.mem[l+1:], nv

def async_send(s, t, pc, done):
    """libuv >= 1.45 uv_async_send: relaxed load, relaxed CAS, then write(eventfd)."""
    if pc == 'as_load':
        return [s.upd(t, pc=(done if val else 'as_cas'), view=nv) for val, nv in reads(s, t, 'pending', False)]
    if pc == 'as_cas':
        old, mem, nv = rmw(s, t, 'pending', lambda o: None if o else 1, False, False)
        return [s.upd(t, pc=(done if old else 'as_wr'), view=nv, mem=mem)]
    if pc == 'as_wr':
        _, mem, nv = rmw(s, t, 'efd', lambda o: o + 1, True, True)
        return [s.upd(t, pc=done, view=nv, mem=mem)]

def explore(init, step, bad):
    seen = set(); st = [init]; n = 0; found = None
    while st:
        s = st.pop(); k = s.key()
        if k in seen: continue
        seen.add(k); n += 1
        succ = []
        for t in range(len(s.pcs)): succ += step(s, t)
        if not succ and bad(s): found = s; break
        st += succ
    return n, found is not None

# ---------- A: queue push then unconditional uv_async_send; drain in the callback ----------
def mk_A(fence, empty_by_head, cfence=False):
    def step(s, t):
        pc = s.pcs[t]
        if t == 0:  # consumer
            if pc == 'blk':
                if s.mem[L['efd']][-1][0] == 0: return []
                _, mem, nv = rmw(s, t, 'efd', lambda o: 0, True, True); return [s.upd(t, pc='clr', view=nv, mem=mem)]
            if pc == 'clr':
                _, mem, nv = rmw(s, t, 'pending', lambda o: 0, True, True); return [s.upd(t, pc='cf' if cfence else 'drain', view=nv, mem=mem)]
            if pc == 'cf':
                _, mem, nv = rmw(s, t, 'sc', lambda o: 0, True, True); return [s.upd(t, pc='drain', view=nv, mem=mem)]
            if pc == 'drain':
                out = []
                if empty_by_head:
                    for h, nv in reads(s, t, 'mhead', True):
                        out.append(s.upd(t, pc='blk' if h == 'stub' else 'sync', view=nv))
                else:
                    for v, nv in reads(s, t, 'link0', True):
                        out.append(s.upd(t, pc='blk', view=nv, glob=1 if v else s.glob))
                return out
            if pc == 'sync':   # wait for the link: newest value only
                v, mv = s.mem[L['link0']][-1]
                return [s.upd(t, pc='blk', view=join(s.views[t], mv), glob=1)] if v else []
        else:
            if pc == 'push':
                _, mem, nv = rmw(s, t, 'mhead', lambda o: 'n', True, True); return [s.upd(t, pc='link', view=nv, mem=mem)]
            if pc == 'link':
                mem, nv = write(s, t, 'link0', 1, True); return [s.upd(t, pc='fence' if fence else 'as_load', view=nv, mem=mem)]
            if pc == 'fence':  # seq_cst fence == acq_rel RMW on a fictitious location shared by all fences
                _, mem, nv = rmw(s, t, 'sc', lambda o: 0, True, True); return [s.upd(t, pc='as_load', view=nv, mem=mem)]
            if pc.startswith('as_'): return async_send(s, t, pc, 'done')
        return []
    mem = ((('x', Z),), (('stub', Z),), ((0, Z),), ((0, Z),), ((1, Z),), ((1, Z),), ((0, Z),))
    init = M(mem, (Z, Z), ('blk', 'push'), (None, None), 0)
    bad = lambda s: s.pcs[0] == 'blk' and s.pcs[1] == 'done' and s.glob == 0
    return init, step, bad

# ---------- B: Postern's protocol ----------
def mk_B(nprod, spurious, push_acq=True, push_rel=True, park_rmw=True):
    """ready: NULL, PARKED, or the tuple of producers whose message lies on the stack."""
    PK, NUL = 'PARKED', 'NULL'
    def step(s, t):
        pc = s.pcs[t]
        if t == 0:
            got, spur = s.glob
            if pc == 'take':
                old, mem, nv = rmw(s, t, 'ready', lambda o: NUL, True, True)
                some = old not in (NUL, PK)
                return [s.upd(t, pc='run' if some else 'park', view=nv, mem=mem, reg=old if some else ())]
            if pc == 'run':    # a message whose contents are not visible counts as lost
                if not s.regs[t]:
                    return [s.upd(t, pc='park')]
                return [s.upd(t, view=nv, reg=s.regs[t][1:], glob=(got + v, spur))
                        for v, nv in reads(s, t, f'link{s.regs[t][0] - 1}', False)]
            if pc == 'park':
                if not park_rmw:   # broken shortcut: plain load says "already PARKED / still empty"
                    out = []
                    for v, nv in reads(s, t, 'ready', True):
                        if v == NUL:
                            mem, nv2 = write(s.upd(t, view=nv), t, 'ready', PK, True); out.append(s.upd(t, pc='blk', view=nv2, mem=mem))
                        elif v == PK: out.append(s.upd(t, pc='blk', view=nv))
                        else: out.append(s.upd(t, pc='take', view=nv))
                    return out
                old, mem, nv = rmw(s, t, 'ready', lambda o: PK if o in (NUL, PK) else None, True, True)
                return [s.upd(t, pc='blk' if old in (NUL, PK) else 'take', view=nv, mem=mem)]
            if pc == 'blk':
                out = []
                if spur: out.append(s.upd(t, pc='take', glob=(got, spur - 1)))     # socket event, async not processed
                if s.mem[L['efd']][-1][0] > 0:
                    _, mem, nv = rmw(s, t, 'efd', lambda o: 0, True, True); out.append(s.upd(t, pc='clr', view=nv, mem=mem))
                return out
            if pc == 'clr':
                _, mem, nv = rmw(s, t, 'pending', lambda o: 0, True, True); return [s.upd(t, pc='take', view=nv, mem=mem)]
        else:
            if pc == 'fill':
                mem, nv = write(s, t, f'link{t - 1}', 1, False); return [s.upd(t, pc='push', view=nv, mem=mem)]
            if pc == 'push':   # (P)
                old, mem, nv = rmw(s, t, 'ready', lambda o: (t,) + (o if isinstance(o, tuple) else ()), push_acq, push_rel)
                return [s.upd(t, pc='as_load' if old == PK else 'done', view=nv, mem=mem)]
            if pc.startswith('as_'): return async_send(s, t, pc, 'done')
        return []
    # start: worker awake; one stale in-flight wake (pending=1, efd=1)
    mem = ((('NULL', Z),), ((None, Z),), ((0, Z),), ((0, Z),), ((1, Z),), ((1, Z),), ((0, Z),))
    init = M(mem, tuple([Z] * (nprod + 1)), tuple(['take'] + ['fill'] * nprod), tuple([()] + [None] * nprod), (0, spurious))
    bad = lambda s: s.pcs[0] == 'blk' and all(p == 'done' for p in s.pcs[1:]) and s.glob[0] < nprod
    return init, step, bad


SAFE, UNSAFE = False, True
VARIANTS = [
    ("queue push, then uv_async_send; callback tests next == NULL", UNSAFE, lambda: mk_A(False, False)),
    ("the same; callback tests the tail pointer with a plain load", UNSAFE, lambda: mk_A(False, True)),
    ("the same with a seq_cst fence on the producer's side only", UNSAFE, lambda: mk_A(True, False)),
    ("the same with seq_cst fences on both sides", SAFE, lambda: mk_A(True, False, True)),
    ("Postern, 1 producer", SAFE, lambda: mk_B(1, 0)),
    ("Postern, 2 producers", SAFE, lambda: mk_B(2, 0)),
    ("Postern, 1 producer, 1 unrelated loop event", SAFE, lambda: mk_B(1, 1)),
    ("Postern, 2 producers, 1 unrelated loop event", SAFE, lambda: mk_B(2, 1)),
    ("Postern, 1 producer, 2 unrelated loop events", SAFE, lambda: mk_B(1, 2)),
    ("Postern, 2 producers, 2 unrelated loop events", SAFE, lambda: mk_B(2, 2)),
    ("weakened: (P) release only, against R3", UNSAFE, lambda: mk_B(2, 2, push_acq=False)),
    ("weakened: (K) load and store, against R2", UNSAFE, lambda: mk_B(2, 2, park_rmw=False)),
    ("weakened: (P) acquire only, against R3", UNSAFE, lambda: mk_B(2, 0, push_rel=False)),
]


def main():
    failed = 0
    for name, expect, make in VARIANTS:
        states, lost = explore(*make())
        verdict = "lost wake-up reachable" if lost else "no lost wake-up"
        ok = lost == expect
        failed += not ok
        print(f"{name:64s} states={states:6d}  {verdict}{'' if ok else '   UNEXPECTED'}")
    if failed:
        print(f"{failed} of {len(VARIANTS)} variants did not behave as the proof says", file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
