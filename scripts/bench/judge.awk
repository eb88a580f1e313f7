# Reads what measure prints, and has what a benchmark needs to judge it. A command that
# was measured in several goes has the turns of all of them.
#
#   table()                   prints a line for each command, in Markdown. The median of an
#                             even number of turns is the lower of the two in the middle
#   at_most(A, B, LIMIT)      prints how many times B's time A took: the median over the
#                             turns, and where that median lies with 95 % certainty. Less
#                             than six turns are too few for that: then it is all of them.
#                             B may be several commands, "curl+again": then it is their mean
#   at_least(A, B, LIMIT)     the same for a limit below
#   memory_below(LIMIT, A)    the same for the peak memory of A in MiB
#
# A limit is missed, and the variable missed is set, if all of that range is beyond it, or if
# nothing was measured. If only the median is, chance may be why: "within chance".
BEGIN { FS = "\t" }
{
  if (!($1 in turns)) name[++names] = $1
  turns[$1] = turns[$1] (turns[$1] ? " " : "") $5
  if ($4 / 1024 > memory[$1]) memory[$1] = $4 / 1024
}

# order sorts the first n of list.
function order(list, n,   i, j, one) {
  for (i = 2; i <= n; i++) {
    one = list[i]
    for (j = i; j > 1 && list[j - 1] > one; j--) list[j] = list[j - 1]
    list[j] = one
  }
}

function table(   i, n, list) {
  print "| | turns | fastest | median | slowest | peak memory |"
  print "|---|---|---|---|---|---|"
  for (i = 1; i <= names; i++) {
    n = split(turns[name[i]], list, " "); order(list, n)
    printf "| %s | %d | %.2f s | %.2f s | %.2f s | %s |\n", name[i], n, list[1], list[int((n + 1) / 2)], list[n],
      memory[name[i]] ? sprintf("%.0f MiB", memory[name[i]]) : ""
  }
  print ""
}

# ratio sets middle, and low and high, of ours over peer, turn by turn: the order
# statistics between which the median lies in 95 of 100 cases, if there are enough turns.
# It returns how many there are.
function ratio(ours, peer,   n, i, j, m, skip, a, b, peers, mean, list) {
  n = split(turns[ours], a, " ")
  m = split(peer, peers, "+")
  for (j = 1; j <= m; j++) {
    i = split(turns[peers[j]], b, " "); if (i < n) n = i
    for (i = 1; i <= n; i++) mean[i] += b[i] / m
  }
  for (i = 1; i <= n; i++) list[i] = a[i] / mean[i]
  order(list, n)
  skip = int((n - 1.96 * sqrt(n)) / 2); if (skip < 0) skip = 0
  middle = list[int((n + 1) / 2)]; low = list[1 + skip]; high = list[n - skip]
  return n
}

# shown is what is compared, with one name for a mean.
function shown(ours, peer) {
  sub(/\+.*/, "", peer)
  return ours " / " peer
}

function at_most(ours, peer, limit,   n) {
  n = ratio(ours, peer)
  verdict(shown(ours, peer), sprintf("%.2f (%.2f to %.2f), at most %.2f", middle, low, high, limit), !n || low > limit, middle > limit)
}

function at_least(ours, peer, limit,   n) {
  n = ratio(ours, peer)
  verdict(shown(ours, peer), sprintf("%.2f (%.2f to %.2f), at least %.2f", middle, low, high, limit), !n || high < limit, middle < limit)
}

function memory_below(limit, ours) {
  verdict("memory of " ours, sprintf("%.0f MiB, less than %d", memory[ours], limit), !memory[ours] || memory[ours] >= limit)
}

function verdict(what, found, beyond, may_be) {
  printf "%-50s %s: %s\n", what, found, beyond ? "MISSED" : may_be ? "within chance" : "ok"
  if (beyond) missed = 1
}
