-- probe.lua: send a mailbox a message, from the server that would tell its
-- waiters of a grant.
--
-- KEYS[1]  a lock that is waited for: it decides which node of a cluster runs
--          the script
-- ARGV[1]  the channel of the mailbox
-- reply    that of PUBLISH
--
-- The message is "probe n". n is the number of the mailbox's subscribers at
-- this server, or -1 if the client may not ask for it.

local reply = redis.pcall('PUBSUB', 'NUMSUB', ARGV[1])
return redis.call('PUBLISH', ARGV[1], 'probe ' .. (reply.err and -1 or reply[2]))
