# Reads what measure prints, and has what a script needs to judge it:
#
#   table()               prints a line for each command, in Markdown
#   judge(A, B, MOST)     prints how many times B's time A took: the median over the
#                         turns, and the range; sets missed if the median is above MOST
#   judge_memory(MOST, A) the same for the peak memory of A in MiB, which must be below
#                         MOST
BEGIN { FS = "\t" }
{ name[NR] = $1; fastest[$1] = $2; median[$1] = $3; memory[$1] = $4 / 1024; turns[$1] = $5 }

function table(   i) {
  print "| | fastest | median | peak memory |\n|---|---|---|---|"
  for (i = 1; i <= NR; i++)
    printf "| %s | %.2f s | %.2f s | %.0f MiB |\n", name[i], fastest[name[i]], median[name[i]], memory[name[i]]
  print ""
}

function judge(ours, peer, most,   n, i, j, a, b, ratio, sorted) {
  n = split(turns[ours], a, " "); split(turns[peer], b, " ")
  for (i = 1; i <= n; i++) {
    ratio = a[i] / b[i]
    for (j = i; j > 1 && sorted[j - 1] > ratio; j--) sorted[j] = sorted[j - 1]
    sorted[j] = ratio
  }
  verdict(sprintf("%s / %s", ours, peer), sprintf("%.2f (%.2f to %.2f), at most %.2f", sorted[int((n + 1) / 2)], sorted[1], sorted[n], most),
    sorted[int((n + 1) / 2)] > most)
}

function judge_memory(most, ours) {
  verdict("memory of " ours, sprintf("%.0f MiB, less than %d", memory[ours], most), memory[ours] >= most)
}

function verdict(what, found, bad) {
  printf "%-24s %s: %s\n", what, found, bad ? "MISSED" : "ok"
  if (bad) missed = 1
}
