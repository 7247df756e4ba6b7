-- The book of one voucher, and how locks enter and leave it, as blocks of text that the scripts share. A script names a
-- block in a line `-- include: <block>`, and scripts.py replaces that line by the text of the block. Functions would be
-- slower: Lua would create them anew in every call, which takes a sixth of the time of an empty script.
--
-- Every value begins with the number of its format, 1. A script that reads a higher number raises an error before it
-- writes: a newer version of this library wrote the value. The members of the index have the format of their book.
--
-- vs:{CODE} is the book: one STRING, so that a script reads it and a session in a single MGET. After the format comes a
-- JSON array of fourteen values, since cjson decodes the numbers in half the time of a Lua pattern. The constants name
-- the positions:
--   life                      a random token, new whenever the voucher is created. What an earlier, deleted voucher of
--                             the same code left in Redis has another token, so the scripts ignore it
--   call ids                  of the latest calls that put or deleted the voucher
--   quantity credits points   the limits; quantity -1 is without limit
--   quantity credits points   used
--   quantity credits points   locked: the totals of all locks, expired locks that are not yet reclaimed included
--   next_expiry               in ms: no lock expires earlier
--   locked_until              in ms: no lock expires later, so from then on nothing is locked and no lock must be read
--                             (releasing a lock does not move it; reclaiming expired locks does)
--   reclaimed_at              in ms: the latest moment at which expired locks were reclaimed; 0: never
-- After the array comes the session key of the only lock, if the voucher has just one: most vouchers never have two at
-- a time. It needs no index, since its amounts and its expiry are those of the book. The second lock creates the
-- index, which then contains both locks.
-- vs:{CODE}:locks is the index, a ZSET of '<credits> <points> <session key>' scored by expiry in ms. The key expires a
-- day after locked_until: it must survive a clock that jumps forward and back.
-- vs:{CODE}:session:<key> is '1 <life> <expires_at_ms> <credits> <points> <call ids>'. The key expires with the lock.
-- vs:{CODE}:redemption:<id> is the receipt of a redemption, '1 <life> <quantity> <credits> <points> <redeemed_at_ms>
-- <call id> <stack> <given back> <session key>'. <stack> is '-' for a single voucher, or a fingerprint of the codes of
-- the stack; '?' if it was imported. <given back> is '-', or '<credits>,<points>,<call id>': what partial rollbacks
-- have given back, and the call id of the rollback that gave back the rest, '-' if there was none.
-- vs:{CODE}:rollback:<id> is the receipt of a partial rollback, '1 <credits> <points> <call id> <redemption id>'.
-- vs:{CODE}:adjustment:<id> is the receipt of an adjustment, '1 <life> <quantity> <credits> <points> <call id>'.
-- A key or an id of a caller is any text, so it is the last field, and is appended with `..`: the %s of string.format
-- cuts a text at a NUL byte.
--
-- A call id is the random token of one call. A key keeps the ids of the latest calls that changed it, the last call
-- last, and '!' precedes the id of a call that ended the session. A client that got no reply sends the same call again
-- by itself: the script finds the call id, changes nothing, and replies as it did the first time, even if other calls
-- have been executed in between. For this purpose tombstones stay for two minutes: a session that was released or
-- redeemed keeps its value, with '!' and the call id appended, and the book of a deleted voucher becomes
-- 1["deleted","<call ids>"].
--
-- A lock is live while now < expires_at_ms. Redis keeps a key through the millisecond of its expiry, so the stored
-- expiry decides whether a lock is live, not whether its key exists. The keys' own expiry only frees memory.
-- The server's clock may go back: it is set, or a replica whose clock is behind becomes the primary. A lock that was
-- reclaimed stays dead then, since its amounts may be another session's by now. So while now < reclaimed_at, a lock is
-- live only if the book or the index still has it.
--
-- Below, the header of each block is one sentence, then the locals that the block reads from the code before it, and
-- those that it declares or assigns and that code after it uses. Constants, in capitals, are left out.

-- block: constants
-- Names the positions of the book and the limits that the scripts share.
-- Reads: nothing
-- Sets: reclaimable
local LIFE, CALL_IDS, QUANTITY_LIMIT, CREDITS_LIMIT, POINTS_LIMIT = 1, 2, 3, 4, 5
local QUANTITY_USED, CREDITS_USED, POINTS_USED = 6, 7, 8
local QUANTITY_LOCKED, CREDITS_LOCKED, POINTS_LOCKED = 9, 10, 11
local NEXT_EXPIRY, LOCKED_UNTIL, RECLAIMED_AT = 12, 13, 14
-- The pattern of a book. It is needed because cjson accepts many texts that this library never writes.
local BOOK = '^1%["%w+","[%w ]+",%-?%d+,%d+,%d+,%d+,%d+,%d+,%d+,%d+,%d+,%d+,%d+,%d+%]'
local ONLY_KEY = 15 -- stored after the array: the session key of the only lock; '' if there is an index, or no lock
local SESSION_TEXT, OWN_CREDITS, OWN_POINTS = 16, 17, 18 -- the session's live lock; never stored in the book
local MAX_NUMBER = 9007199254740991 -- 2^53 - 1, the largest exact integer: the limit of a voucher without limit
local REMEMBERED = 36 -- characters of earlier call ids that a key keeps besides the last: three ids
local TOMBSTONE_MS = 120000 -- longer than a client repeats a call by itself: 11 timeouts of 5 s, and pauses in between
-- An index expires so much later than its last lock. Until then a script can UNLINK it, in the background: an expired
-- key is by default freed in the foreground, half a second for a million locks.
local LINGER_MS = 86400000
local reclaimable = 250 -- expired locks that one script call may still reclaim: limits how long the server is busy

-- block: clock
-- Reads the server's clock, in ms.
-- Reads: nothing
-- Sets: now
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- block: refuse
-- Raises the error for `value`, which is not in a format that this script reads.
-- Reads: value, book_key
-- Sets: nothing
local format = string.match(value, '^(%d+)[ %[]')
error((format and format + 0 > 1 and 'FORMAT ' .. format .. ' ' or 'CORRUPT ') .. book_key)

-- block: open
-- Decodes `text`, the value of `book_key`, into `book` (nil where there is no voucher), or finds the call ids of the
-- tombstone.
-- Reads: text, book_key
-- Sets: book, tombstone_call_ids
local book, tombstone_call_ids
local _, array_ends = string.find(text or '', BOOK)
if array_ends then
  book = cjson.decode(string.sub(text, 2, array_ends))
  book[ONLY_KEY] = string.sub(text, array_ends + 1)
else
  -- MGET returns nil for a key of another type, as for an absent one; GET raises an error for it.
  tombstone_call_ids = string.match(
    text or redis.call('GET', book_key) or '1["deleted",""]', '^1%["deleted","([%w ]*)"%]$')
end
if not (book and book[QUANTITY_LIMIT] >= -1 or tombstone_call_ids) then
  local value = text
  -- include: refuse
end

-- block: save
-- Writes `book` to `book_key`.
-- Reads: book, book_key
-- Sets: nothing
redis.call('SET', book_key, string.format('1["%s","%s",%d,%d,%d,%d,%d,%d,%d,%d,%d,%d,%d,%d]',
  unpack(book, 1, RECLAIMED_AT)) .. book[ONLY_KEY])

-- block: only_lock
-- Makes the index member of the only lock.
-- Reads: book
-- Sets: only_lock
local only_lock = string.format('%d %d ', book[CREDITS_LOCKED], book[POINTS_LOCKED]) .. book[ONLY_KEY]

-- block: index_only_lock
-- Creates the index with the only lock.
-- Reads: book, locks_key
-- Sets: nothing
-- include: only_lock
redis.call('ZADD', locks_key, string.format('%d', book[LOCKED_UNTIL]), only_lock)
book[ONLY_KEY] = ''

-- block: expire_index
-- Sets the expiry of the index key by the last of its locks.
-- Reads: book, locks_key
-- Sets: nothing
redis.call('PEXPIREAT', locks_key, string.format('%d', book[LOCKED_UNTIL] + LINGER_MS))

-- block: reclaim
-- Takes expired locks out of the index and out of the totals of `book`, and sets `again` if more are left than one
-- script call may reclaim.
-- Reads: book, book_key, locks_key, now, again, reclaimable
-- Sets: again, reclaimable
if book[QUANTITY_LOCKED] > 0 and now >= book[NEXT_EXPIRY] then
  local last = book[ONLY_KEY] == '' and redis.call('ZRANGE', locks_key, -1, -1, 'WITHSCORES')[2]
  if now >= (last or book[LOCKED_UNTIL]) + 0 then
    -- Also if no index was found: a value that something else left under its key must not count for later locks.
    redis.call('UNLINK', locks_key)
    book[QUANTITY_LOCKED], book[CREDITS_LOCKED], book[POINTS_LOCKED] = 0, 0, 0
    book[NEXT_EXPIRY], book[LOCKED_UNTIL], book[ONLY_KEY] = 0, 0, ''
    book[RECLAIMED_AT] = math.max(now, book[RECLAIMED_AT])
    -- include: save
  elseif last then
    local expired = redis.call('ZRANGEBYSCORE', locks_key, '-inf', string.format('%d', now), 'LIMIT', 0, reclaimable)
    for _, member in ipairs(expired) do
      local credits, points = string.match(member, '^(%d+) (%d+) ')
      if not credits then
        error('CORRUPT ' .. locks_key)
      end
      -- No total falls below zero, even if something other than this library changed the keys.
      book[QUANTITY_LOCKED] = math.max(0, book[QUANTITY_LOCKED] - 1)
      book[CREDITS_LOCKED] = math.max(0, book[CREDITS_LOCKED] - credits)
      book[POINTS_LOCKED] = math.max(0, book[POINTS_LOCKED] - points)
    end
    if #expired > 0 then
      redis.call('ZREMRANGEBYRANK', locks_key, 0, #expired - 1)
      reclaimable = reclaimable - #expired
      book[RECLAIMED_AT] = math.max(now, book[RECLAIMED_AT])
    end
    book[NEXT_EXPIRY] = redis.call('ZRANGE', locks_key, 0, 0, 'WITHSCORES')[2] + 0
    book[LOCKED_UNTIL] = last + 0
    -- include: expire_index
    -- include: save
    again = again or now >= book[NEXT_EXPIRY]
  end
end

-- block: session
-- Decodes `session_text`, the value of the session's key, into the amounts of its live lock (0 if it has none) and the
-- call ids that the key keeps (nil if it is absent).
-- Reads: session_text, session_key, session_name, book, book_key, locks_key, now
-- Sets: session_text, own_quantity, own_credits, own_points, own_expires_at, expires_at_text, call_ids
if not session_text and session_key ~= '' and book[ONLY_KEY] == session_key then
  -- Redis has dropped the key, since its clock was ahead for a while; the book still has the lock. Or MGET has returned
  -- nil for a key of another type, for which GET raises an error.
  session_text = redis.call('GET', session_name) or string.format('1 %s %d %d %d -',
    book[LIFE], book[LOCKED_UNTIL], book[CREDITS_LOCKED], book[POINTS_LOCKED])
end
local own_quantity, own_credits, own_points, own_expires_at = 0, 0, 0, 0
local session_life, expires_at_text, credits_text, points_text, call_ids
if session_text then
  session_life, expires_at_text, credits_text, points_text, call_ids =
    string.match(session_text, '^1 (%w+) (%d+) (%d+) (%d+)( [%w! -]+)$')
  if not session_life then
    local value = session_text
    -- include: refuse
  elseif session_life == book[LIFE] and now < expires_at_text + 0 and not string.find(call_ids, '!%w+$')
    and (now >= book[RECLAIMED_AT] or book[ONLY_KEY] == session_key
      or redis.call('ZSCORE', locks_key, credits_text .. ' ' .. points_text .. ' ' .. session_key)) then
    own_quantity, own_credits, own_points, own_expires_at = 1, credits_text + 0, points_text + 0, expires_at_text + 0
    book[SESSION_TEXT], book[OWN_CREDITS], book[OWN_POINTS] = session_text, credits_text, points_text
  end
end

-- block: judge
-- Compares `credits` and `points` with what is available to the caller, sets `fits` to false if they do not fit, and
-- writes the result to `reply`, after its first `n` items.
-- Reads: book, credits, points, session_key, locks_key, now, reply, n
-- Sets: fits
local has_lock, own_credits, own_points = book[SESSION_TEXT] ~= nil, (book[OWN_CREDITS] or 0) + 0, (book[OWN_POINTS] or 0) + 0
local quantity_limit = book[QUANTITY_LIMIT]
local quantity_unspent = (quantity_limit < 0 and MAX_NUMBER or quantity_limit) - book[QUANTITY_USED]
local credits_unspent = book[CREDITS_LIMIT] - book[CREDITS_USED]
local points_unspent = book[POINTS_LIMIT] - book[POINTS_USED]
-- The locks of other sessions are never less than 0, even if something other than this library changed the totals.
local quantity_left = quantity_unspent - math.max(0, book[QUANTITY_LOCKED] - (has_lock and 1 or 0))
local credits_left = credits_unspent - math.max(0, book[CREDITS_LOCKED] - own_credits)
local points_left = points_unspent - math.max(0, book[POINTS_LOCKED] - own_points)
if has_lock then
  -- Below a limit that was lowered there may be more locks than it covers. Then each session can have what it has
  -- locked, until the limit is used up; only what goes beyond its own lock competes with the locks of others.
  quantity_left = math.max(quantity_left, math.min(1, quantity_unspent))
  credits_left = math.max(credits_left, math.min(own_credits, credits_unspent))
  points_left = math.max(points_left, math.min(own_points, points_unspent))
end
local reason, locked_by_others, retry_after_ms = '', 0, 0
if quantity_left < 1 then
  reason = 'quantity_exceeded'
elseif credits > 0 and credits_left < credits then
  reason = 'gift_amount_exceeded'
elseif points > 0 and points_left < points then
  reason = 'loyalty_card_points_exceeded'
end
if reason ~= '' then
  fits = false
  if quantity_unspent >= 1
    and (credits == 0 or credits_unspent >= credits) and (points == 0 or points_unspent >= points) then
    locked_by_others = 1
    local soonest = redis.call('ZRANGEBYSCORE', locks_key, '(' .. string.format('%d', now), '+inf',
      'WITHSCORES', 'LIMIT', 0, 2)
    local own = has_lock and book[OWN_CREDITS] .. ' ' .. book[OWN_POINTS] .. ' ' .. session_key
    retry_after_ms = math.max(1, ((soonest[1] == own and soonest[4] or soonest[2]) or book[LOCKED_UNTIL]) - now)
  end
end
-- The last three are what is available to the caller; quantity -1 is without limit.
reply[n + 1], reply[n + 2], reply[n + 3] = reason, locked_by_others, retry_after_ms
reply[n + 4] = quantity_limit < 0 and -1 or math.max(0, quantity_left)
reply[n + 5], reply[n + 6] = math.max(0, credits_left), math.max(0, points_left)

-- block: lock
-- Locks `credits` and `points` for the session, whose key has the value `earlier`, in the index, in the session's key
-- and in `book`, which the caller saves.
-- Reads: book, book_key, credits, points, session_key, session_name, locks_key, expires_at, expires_at_text, earlier,
--   call_id
-- Sets: nothing
local amounts, added, removed, was_only = credits .. ' ' .. points, 0, 0, book[ONLY_KEY] ~= ''
local member = amounts .. ' ' .. session_key
local old_credits, old_points = book[OWN_CREDITS] or 0, book[OWN_POINTS] or 0
local is_only = book[ONLY_KEY] == session_key or book[QUANTITY_LOCKED] == 0 and not book[SESSION_TEXT]
-- A server that is out of memory refuses the first write, and so does a key of another type: then nothing has changed.
if not is_only then
  if was_only then
    -- include: index_only_lock
  end
  added = redis.call('ZADD', locks_key, expires_at_text, member)
  if book[SESSION_TEXT] and (old_credits ~= credits or old_points ~= points) then
    removed = redis.call('ZREM', locks_key, old_credits .. ' ' .. old_points .. ' ' .. session_key)
  end
end
local stored = '1 ' .. book[LIFE] .. ' ' .. expires_at_text .. ' ' .. amounts
if earlier then
  -- The oldest call id may be cut: what is left of it is too short to equal any call's id.
  stored = stored .. ' ' .. string.sub(string.match(earlier, '^1 %w+ %d+ %d+ %d+(.*)$'), -REMEMBERED)
end
stored = stored .. ' ' .. call_id
if earlier then
  redis.call('SET', session_name, stored, 'PXAT', expires_at_text)
elseif not redis.call('SET', session_name, stored, 'PXAT', expires_at_text, 'NX') then
  if was_only then
    redis.call('UNLINK', locks_key)
  else
    redis.call('ZREM', locks_key, member)
  end
  error('CORRUPT ' .. book_key) -- the session's key is of another type, for which MGET has returned nil
end
if is_only then
  book[ONLY_KEY], book[QUANTITY_LOCKED] = session_key, 1
  book[CREDITS_LOCKED], book[POINTS_LOCKED] = credits + 0, points + 0
  book[NEXT_EXPIRY], book[LOCKED_UNTIL] = expires_at, expires_at
else
  if was_only or expires_at > book[LOCKED_UNTIL] then
    book[LOCKED_UNTIL] = math.max(expires_at, book[LOCKED_UNTIL])
    -- include: expire_index
  end
  if book[QUANTITY_LOCKED] == 0 or expires_at < book[NEXT_EXPIRY] then
    book[NEXT_EXPIRY] = expires_at
  end
  -- The totals change by what the index changed by, so that they do not drift further apart if something other than
  -- this library changed the index.
  book[QUANTITY_LOCKED] = math.max(0, book[QUANTITY_LOCKED] + added - removed)
  book[CREDITS_LOCKED] = math.max(0, book[CREDITS_LOCKED] + added * credits - removed * old_credits)
  book[POINTS_LOCKED] = math.max(0, book[POINTS_LOCKED] + added * points - removed * old_points)
end

-- block: unlock
-- Takes the session's live lock out of the index and out of the totals of `book`, which the caller saves, and makes the
-- session's key a tombstone.
-- Reads: book, session_key, session_name, locks_key, call_id
-- Sets: nothing
local old_credits, old_points = book[OWN_CREDITS], book[OWN_POINTS]
-- ZREM comes first, even if there is no index: a key of another type refuses it before anything is written. A server
-- that is out of memory executes it, and the writes after it.
local removed = redis.call('ZREM', locks_key, old_credits .. ' ' .. old_points .. ' ' .. session_key)
if book[ONLY_KEY] == session_key then
  removed, book[ONLY_KEY] = 1, ''
end
redis.call('SET', session_name, book[SESSION_TEXT] .. ' !' .. call_id, 'PX', TOMBSTONE_MS)
-- A lock that was no longer in the index stays in the totals, until repair corrects them.
book[QUANTITY_LOCKED] = math.max(0, book[QUANTITY_LOCKED] - removed)
book[CREDITS_LOCKED] = math.max(0, book[CREDITS_LOCKED] - removed * old_credits)
book[POINTS_LOCKED] = math.max(0, book[POINTS_LOCKED] - removed * old_points)
if book[QUANTITY_LOCKED] == 0 then
  book[CREDITS_LOCKED], book[POINTS_LOCKED], book[NEXT_EXPIRY], book[LOCKED_UNTIL] = 0, 0, 0, 0
end

-- block: receipt
-- Decodes `receipt`, the value of a redemption's key.
-- Reads: receipt, book_key
-- Sets: redemption, receipt_life, credits_back, points_back, rolled_back_by, receipt_session, credits_left, points_left
local redemption, receipt_life, credits_left, points_left, given_back_text, receipt_session =
  string.match(receipt, '^(1 (%w+) %d+ (%d+) (%d+) %d+ %w+ %S+) (%S+) (.*)$')
local credits_back, points_back, rolled_back_by =
  string.match(given_back_text == '-' and '0,0,-' or given_back_text or '', '^(%d+),(%d+),([%w-]+)$')
if not rolled_back_by then
  local value = receipt
  -- include: refuse
end
credits_left, points_left = credits_left - credits_back, points_left - points_back

-- block: set_receipt
-- Writes `receipt` to `receipt_key`, to expire after `receipt_ttl_ms`, or never if that is ''.
-- Reads: receipt, receipt_key, receipt_ttl_ms
-- Sets: nothing
if receipt_ttl_ms == '' then
  redis.call('SET', receipt_key, receipt)
else
  redis.call('SET', receipt_key, receipt, 'PX', receipt_ttl_ms)
end

-- block: give_back
-- Subtracts what a redemption gives back from what is used, unless it is a redemption of a deleted voucher.
-- Reads: book, book_key, receipt_life, quantity, credits, points
-- Sets: nothing
if book and book[LIFE] == receipt_life then
  book[QUANTITY_USED] = math.max(0, book[QUANTITY_USED] - quantity)
  book[CREDITS_USED] = math.max(0, book[CREDITS_USED] - credits)
  book[POINTS_USED] = math.max(0, book[POINTS_USED] - points)
  -- include: save
end
