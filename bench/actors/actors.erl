%% SPDX-License-Identifier: Apache-2.0
%%
%% actors.erl - the programs of basic.c and many.c for the BEAM, which bench/actors/run compiles.
%% Mailboxes have no bound there, so producers send without pause.
%%
%% Usage: erl ... -s actors main -extra PROGRAM SCHEDULERS SIZE WARM_UP
%% Output, of the measured run: operations, nanoseconds, those of CPU time, resident bytes gained.
-module(actors).
-export([main/0]).

-define(SENDERS, 16).
-define(RING, 100).
-define(FAN, 60).
-define(WAVE, 1000).
-define(BIG, 120).
-define(CREATURES, 100).
-define(CLIENTS, 20).
-define(KEYS, 4096).
-define(WRITE_PERCENT, 10).
-define(MAKERS, 40).
-define(BUFFER, 50).
-define(COST, 25).

main() ->
    try
        [Name | Numbers] = init:get_plain_arguments(),
        Program = list_to_existing_atom(Name),
        [Online, Size, WarmUp] = [list_to_integer(Text) || Text <- Numbers],
        Online = erlang:system_info(schedulers_online),
        _ = run(Program, WarmUp),
        io:format("~b ~b ~b ~b~n", run(Program, Size)),
        halt(0)
    catch
        Class:Reason:Stack ->
            io:format(standard_error, "actors.erl: ~p ~p ~p~n", [Class, Reason, Stack]),
            halt(1)
    end.

%% A process of a program that fails takes the conductor with it: they are linked.
run(Program, N) ->
    {Starters, Reports, Sum, Ops} = start(Program, N, self()),
    Rss0 = rss_bytes(),
    Cpu0 = cpu_ns(),
    T0 = erlang:monotonic_time(nanosecond),
    lists:foreach(fun(P) -> P ! start end, Starters),
    Sum = collect(Reports, 0),
    Ns = erlang:monotonic_time(nanosecond) - T0,
    [Ops, Ns, cpu_ns() - Cpu0, rss_bytes() - Rss0].

collect(0, Sum) -> Sum;
collect(Reports, Sum) -> receive {report, V} -> collect(Reports - 1, Sum + V) end.

rss_bytes() ->
    {ok, Text} = file:read_file("/proc/self/statm"),
    [_, Pages | _] = binary:split(Text, <<" ">>, [global]),
    binary_to_integer(Pages) * 4096.

cpu_ns() ->
    lists:sum([begin
        {ok, Text} = file:read_file(Task),
        binary_to_integer(hd(binary:split(Text, <<" ">>)))
    end || Task <- filelib:wildcard("/proc/self/task/*/schedstat")]).

%% Spawns Fun(Index) for the indices, each of which then waits for `start'.
group(From, To, Fun) -> [spawn_link(fun() -> Fun(I) end) || I <- lists:seq(From, To)].

started(Fun) -> receive start -> Fun() end.

lehmer(X) -> X * 16807 rem 2147483647.
seed(Index) -> 1 + Index * 104729.

%% Starts a program: {who gets `start', reports to come, their sum, operations}.
start(pingpong, N, Boss) ->
    Pong = spawn_link(fun pong/0),
    Ping = spawn_link(fun() -> started(fun() -> ping(N, N, Pong, Boss) end) end),
    {[Ping], 1, N, N};
start(count, N, Boss) ->
    Counter = spawn_link(fun() -> counter(0, Boss) end),
    {[spawn_link(fun() -> started(fun() -> produce(N, Counter), Counter ! stop end) end)], 1, N, N};
start(senders, N, Boss) ->
    All = ?SENDERS * N,
    Sink = spawn_link(fun() -> sink(0, All, Boss) end),
    {group(1, ?SENDERS, fun(_) -> started(fun() -> produce(N, Sink) end) end), 1, All, All};
start(threadring, N, Boss) ->
    [First | _] = Nodes = group(0, ?RING - 1, fun(I) -> receive {next, P} -> ring(I, 0, N, P, Boss) end end),
    lists:foreach(fun({P, Next}) -> P ! {next, Next} end, lists:zip(Nodes, tl(Nodes) ++ [First])),
    {[First], 1, N, N};
start(fjthrput, N, Boss) ->
    Nodes = group(1, ?FAN, fun(_) -> sink(0, N, Boss) end),
    {[spawn_link(fun() -> started(fun() -> fan(N, Nodes) end) end)], ?FAN, ?FAN * N, ?FAN * N};
start(fjcreate, N, Boss) ->
    {[spawn_link(fun() -> started(fun() -> fork(N), join(0, N, Boss) end) end)], 1, N, N};
start(create, N, Boss) ->
    {[spawn_link(fun() -> started(fun() -> next_life(1, N, Boss) end) end)], 1, N, N};
start(idle, N, Boss) ->
    {[spawn_link(fun() -> started(fun() -> idle_waves(0, N, Boss) end) end)], 1, N, N};
start(big, N, Boss) ->
    Nodes = group(0, ?BIG - 1, fun(I) -> receive {peers, Ps} -> started(fun() -> big(I, N, Ps, Boss) end) end end),
    lists:foreach(fun(P) -> P ! {peers, list_to_tuple(Nodes)} end, Nodes),
    {Nodes, ?BIG, ?BIG * N, 2 * ?BIG * N};
start(chameneos, N, Boss) ->
    Mall = spawn_link(fun() -> mall(N) end),
    Creatures = group(1, ?CREATURES, fun(I) ->
        started(fun() -> meet(Mall, I rem 3), creature(Mall, I rem 3, 0, Boss) end)
    end),
    {Creatures, ?CREATURES, 2 * N, N};
start(concdict, N, Boss) ->
    Dict = spawn_link(fun() -> dict(maps:from_list([{K, K} || K <- lists:seq(1, ?KEYS)])) end),
    Clients = group(1, ?CLIENTS, fun(I) -> started(fun() -> client(N, N, seed(I), Dict, Boss) end) end),
    {Clients, ?CLIENTS, ?CLIENTS * N, ?CLIENTS * N};
start(bndbuffer, N, Boss) ->
    Manager = spawn_link(fun() ->
        receive {makers, Producers, Consumers} ->
            started(fun() ->
                lists:foreach(fun(P) -> P ! produce end, Producers),
                manager(0, ?MAKERS * N, 0, queue:new(), queue:from_list(Consumers), Boss)
            end)
        end
    end),
    Producers = group(1, ?MAKERS, fun(I) -> producer(N, seed(I), Manager) end),
    Consumers = group(?MAKERS + 1, 2 * ?MAKERS, fun(I) -> consumer(seed(I), Manager) end),
    Manager ! {makers, Producers, Consumers},
    {[Manager], 1, ?MAKERS * N, ?MAKERS * N}.

%% ---- one thing at a time: see basic.c

ping(0, N, _, Boss) -> Boss ! {report, N};
ping(Left, N, Pong, Boss) ->
    Pong ! {ping, self()},
    receive pong -> ping(Left - 1, N, Pong, Boss) end.

pong() -> receive {ping, P} -> P ! pong, pong() end.

produce(0, _) -> ok;
produce(N, To) -> To ! data, produce(N - 1, To).

counter(N, Boss) ->
    receive
        data -> counter(N + 1, Boss);
        stop -> Boss ! {report, N}
    end.

sink(N, N, Boss) -> Boss ! {report, N};
sink(N, All, Boss) -> receive data -> sink(N + 1, All, Boss) end.

ring(I, N, All, Next, Boss) ->
    receive
        start -> Next ! data, ring(I, N, All, Next, Boss);
        data ->
            Laps = case I of 0 -> N + 1; _ -> N end,
            case Laps * ?RING + I of
                All -> Boss ! {report, All};
                _ -> Next ! data, ring(I, N + 1, All, Next, Boss)
            end
    end.

fan(0, _) -> ok;
fan(N, Nodes) -> fan_round(Nodes), fan(N - 1, Nodes).
fan_round([]) -> ok;
fan_round([P | Ps]) -> P ! data, fan_round(Ps).

child() -> receive {data, P} -> P ! done end.

fork(0) -> ok;
fork(N) -> spawn(fun child/0) ! {data, self()}, fork(N - 1).

join(N, N, Boss) -> Boss ! {report, N};
join(N, All, Boss) -> receive done -> join(N + 1, All, Boss) end.

next_life(Lives, N, Boss) -> spawn(fun() -> life(Lives, N, Boss) end) ! data.

life(N, N, Boss) -> receive data -> Boss ! {report, N} end;
life(Lives, N, Boss) -> receive data -> next_life(Lives + 1, N, Boss) end.

idler(N) -> receive {data, P} -> P ! done, idler(N + 1) end.

idle_waves(N, All, Boss) when N >= All -> Boss ! {report, All}, receive never -> ok end;
idle_waves(N, All, Boss) ->
    idle_spawn(?WAVE),
    idle_join(?WAVE),
    idle_waves(N + ?WAVE, All, Boss).

idle_spawn(0) -> ok;
idle_spawn(N) -> spawn(fun() -> idler(0) end) ! {data, self()}, idle_spawn(N - 1).

idle_join(0) -> ok;
idle_join(N) -> receive done -> idle_join(N - 1) end.

%% ---- many actors: see many.c

big(I, N, Peers, Boss) ->
    X = lehmer(seed(I)),
    element(1 + X rem ?BIG, Peers) ! {ping, self()},
    big(0, X, N, Peers, Boss).

%% Goes on answering after its own last pong.
big(Done, X, N, Peers, Boss) ->
    receive
        {ping, P} -> P ! pong, big(Done, X, N, Peers, Boss);
        pong when Done + 1 =:= N -> Boss ! {report, N}, big(N, X, N, Peers, Boss);
        pong ->
            Y = lehmer(X),
            element(1 + Y rem ?BIG, Peers) ! {ping, self()},
            big(Done + 1, Y, N, Peers, Boss)
    end.

mall(0) -> receive {meet, _, P} -> P ! fade, mall(0) end;
mall(N) ->
    receive {meet, _, First} ->
        receive {meet, _, _} = Second -> First ! Second, mall(N - 1) end
    end.

meet(Mall, Colour) -> Mall ! {meet, Colour, self()}.

complement(C, C) -> C;
complement(A, B) -> 3 - A - B.

creature(Mall, Colour, Meetings, Boss) ->
    receive
        {meet, Other, P} ->
            New = complement(Colour, Other),
            P ! {change, New},
            meet(Mall, New),
            creature(Mall, New, Meetings + 1, Boss);
        {change, New} ->
            meet(Mall, New),
            creature(Mall, New, Meetings + 1, Boss);
        fade -> Boss ! {report, Meetings}
    end.

dict(Table) ->
    receive
        {read, From, Ref, Key} -> From ! {Ref, maps:get(Key, Table)}, dict(Table);
        {write, From, Ref, Key, Value} ->
            From ! {Ref, maps:get(Key, Table)},
            dict(Table#{Key := Value})
    end.

client(0, N, _, _, Boss) -> Boss ! {report, N};
client(Left, N, X0, Dict, Boss) ->
    X1 = lehmer(X0),
    Key = 1 + X1 rem ?KEYS,
    X2 = lehmer(X1),
    Ref = make_ref(),
    X = case X2 rem 100 < ?WRITE_PERCENT of
        true ->
            X3 = lehmer(X2),
            Dict ! {write, self(), Ref, Key, Key + ?KEYS * (X3 rem 1000)},
            X3;
        false ->
            Dict ! {read, self(), Ref, Key},
            X2
    end,
    receive {Ref, Value} when Value rem ?KEYS =:= Key rem ?KEYS -> ok after 30000 -> exit(no_answer) end,
    client(Left - 1, N, X, Dict, Boss).

manager(All, All, _, _, _, Boss) -> Boss ! {report, All};
manager(Consumed, All, Items, Producers, Consumers, Boss) when Items =< ?BUFFER ->
    receive
        {item, P} ->
            {NewItems, NewConsumers} = case queue:out(Consumers) of
                {{value, C}, Rest} -> C ! item, {Items, Rest};
                {empty, _} -> {Items + 1, Consumers}
            end,
            NewProducers = case NewItems < ?BUFFER - ?MAKERS of
                true -> P ! produce, Producers;
                false -> queue:in(P, Producers)
            end,
            manager(Consumed, All, NewItems, NewProducers, NewConsumers, Boss);
        {free, C} when Items =:= 0 ->
            manager(Consumed + 1, All, 0, Producers, queue:in(C, Consumers), Boss);
        {free, C} ->
            C ! item,
            NewProducers = case queue:out(Producers) of
                {{value, P}, Rest} -> P ! produce, Rest;
                {empty, _} -> Producers
            end,
            manager(Consumed + 1, All, Items - 1, NewProducers, Consumers, Boss)
    end.

work(X) -> work(X, ?COST * 100).
work(X, 0) -> X;
work(X, N) -> work(lehmer(X), N - 1).

producer(0, _, _) -> ok;
producer(Left, X, Manager) ->
    receive produce ->
        New = work(X),
        Manager ! {item, self()},
        producer(Left - 1, New, Manager)
    end.

consumer(X, Manager) ->
    receive item ->
        New = work(X),
        Manager ! {free, self()},
        consumer(New, Manager)
    end.
