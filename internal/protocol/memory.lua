-- memory.lua: tell what this server remembers, and note what it is to remember from now
-- on.
--
-- KEYS[1]  memory: "run from ttl". It says that the server, while its run ID is that
--          one, may vote from that time of its clock on (ms), and the longest ttl (ms) of
--          a lease that it may vote for. It has forgotten nothing since the memory began
-- ARGV[1]  the channel of a mailbox, to find whether the client may publish there
-- ARGV[2]  the memory that ARGV[3] is to replace; empty: there is none
-- ARGV[3]  the new memory; empty: none
-- ARGV[4]  the lifetime of the memory (ms)
-- reply    an array of 6
--          1. the memory; empty: there is none
--          2. the run ID; empty: not known
--          3. for how long the server has run (s); -1: not known
--          4. the server's time (ms)
--          5. the error of PUBLISH; empty: none
--          6. the error of INFO; empty: none
--
-- A server that has restarted empty has no memory, nor has one after FLUSHALL. One that
-- has restarted from a copy of its data has the memory of another run.

local published = redis.pcall('PUBLISH', ARGV[1], '')
local info = redis.pcall('INFO', 'server')
local denied = type(info) == 'table' and info.err or ''
info = type(info) == 'string' and info or ''

local memory = redis.call('GET', KEYS[1]) or ''
if ARGV[3] ~= '' and memory == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  memory = ARGV[3]
elseif memory ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
local time = redis.call('TIME')
return {
  memory, string.match(info, 'run_id:(%x+)') or '',
  tonumber(string.match(info, 'uptime_in_seconds:(%d+)') or -1),
  time[1] * 1000 + math.floor(time[2] / 1000),
  type(published) == 'table' and published.err or '', denied,
}
