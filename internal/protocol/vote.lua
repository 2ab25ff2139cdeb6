-- vote.lua: what a server of a quorum looks at before it grants the lock. In a script, it
-- comes right after lock.lua.
--
-- KEYS[7]  memory: what this server says of its own memory, see memory.lua
--
-- Tokens rise for these reasons:
--  1. A server grants a token only above its fence, and the grant makes it the fence.
--     Any two majorities have a server in common.
--  2. The fence lives until the server's clock is past the fence's value, and the ttl,
--     by the floor lifetime. A server without a fence takes no token that is behind its
--     clock by more than SLACK, which is less. So clocks of clients do not matter.
--  3. A server that has forgotten its fence may not vote: see memory.lua. The script
--     itself looks for that, in the same step.

local SLACK = 60000000 -- us

-- Reports whether this server has forgotten nothing since a client has read its memory.
-- An empty memory says that it never forgets. run is the run ID, part of the memory;
-- empty: the server has none.
local function remembers(memory, run)
  return memory == '' or redis.call('GET', KEYS[7]) == memory and
    (run == '' or string.find(redis.call('INFO', 'server'), run, 1, true) ~= nil)
end

-- Returns the fence, or 0 if there is none, and the floor, above which tokens must be.
local function fence_and_floor(now)
  local fence = tonumber(redis.call('GET', FENCE) or nil)
  if not fence or not (fence > 0 and fence < EXACT) then -- not a number of ours
    fence = 0
  end
  return fence, fence > 0 and fence or now - SLACK
end

-- Makes highest, a number as text, the fence. ttl (ms) is how long it lives on after the time
-- that it stands for. Returns a server's error.
local function raise_fence(highest, now, ttl)
  local ahead = math.max(0, math.ceil((highest - now) / 1000))
  local reply = redis.pcall('SET', FENCE, highest, 'PX', int(ttl + ahead))
  return reply.err and reply or nil
end
