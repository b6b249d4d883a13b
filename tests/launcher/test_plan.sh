#!/bin/bash
# shellcheck source-path=SCRIPTDIR source=lib.sh
# witan plan: the published example of expert load balancing, what it prints, and bad input.
. "$(dirname "$0")/lib.sh"

works 0 plan --help
grep -q '^usage: witan plan SUBCOMMAND' "$work/stdout" || wrong "plan --help"
works 0 plan place --help
grep -q '^usage: witan plan place' "$work/stdout" || wrong "plan place --help"

load=$work/load
cat >"$load" <<'END'
# two layers of twelve experts
90 132 40 61 104 165 39 4 73 56 183 86

20	107 104 64  19 197 187 157 172 86 16 27
END
cat >"$work/expected" <<'END'
5 6 5 7 8 4 3 4 10 9 10 2 0 1 11 1
7 10 6 8 6 11 8 9 2 4 5 1 5 0 3 1
END
place="plan place --slots 16 --groups 4 --nodes 2 --gpus 8 --load"

# shellcheck disable=SC2086
{
    works 0 $place "$load"
    same "$work/stdout" "$work/expected"
    works 3 $place "$load" # once, whatever the launcher starts
    same "$work/stdout" "$work/expected"
    works 0 $place - <"$load"
    same "$work/stdout" "$work/expected"
    tr '\n' '|' <"$load" | sed 's/|/\r\n/g; s/ 27\r\n$/ 2.7e1/' >"$work/dos" # no end of line either
    works 0 $place "$work/dos"
    same "$work/stdout" "$work/expected"

    # ---- the report leaves the results alone ----
    "$program" $place "$load" --report --json "$work/j" >"$work/stdout" 2>"$work/stderr" ||
        wrong "--report: exit status"
    same "$work/stdout" "$work/expected"
    grep -q '^ *0 *2\.0833 *1\.2081 *2$' "$work/stderr" || wrong "--report: $(cat "$work/stderr")"
    tr -d ' \n' <"$work/j" >"$work/flat"
    for text in '^{"schema":"witan.plan.place/1","version":' '"experts":12,"slots":16,"groups":4' \
        '"nodes":2,"ranks":8,"layers":\[{"layer":0,"imbalance_before":2.0832' '"moves":null' \
        '"slots":\[5,6,5,7,8,4,3,4,10,9,10,2,0,1,11,1\],"slot_owner":\[0,0,1,1' \
        '"rank_load_before":\[90.0,172.0' '"rank_load_after":\[121.5,86.5,125.0' \
        '"slots":\[7,10,6,8'; do
        grep -q "$text" "$work/flat" || wrong "--json: no $text in $(cat "$work/flat")"
    done

    # ---- against a placement that is there: ranks in other order move nothing ----
    awk '{ for (i = NF - 1; i > 0; i -= 2) printf "%s %s ", $i, $(i + 1); print "" }' \
        "$work/expected" >"$work/current"
    "$program" $place "$load" --current "$work/current" --report >"$work/stdout" \
        2>"$work/stderr" || wrong "--current: exit status"
    sed 's/ $//' "$work/current" | cmp - "$work/stdout" || wrong "--current: $(cat "$work/stdout")"
    [ "$(grep -c ' 0$' "$work/stderr")" -eq 2 ] || wrong "--current: $(cat "$work/stderr")"

    # ---- changed only where the load demands it: the hot expert takes the slot of a replica ----
    echo "8 1 1" >"$work/hot"
    echo "0 1 2 2" >"$work/now"
    hot="plan place --load $work/hot --slots 4 --gpus 2 --current $work/now"
    works 0 $hot --within 1.5
    [ "$(cat "$work/stdout")" = "0 1 0 2" ] || wrong "--within 1.5: $(cat "$work/stdout")"
    works 0 $hot --within 2
    [ "$(cat "$work/stdout")" = "0 1 2 2" ] || wrong "--within 2: $(cat "$work/stdout")"
    fails 0 2 "--within: expected --current too" $place "$load" --within 1.1
    for number in 0.9 nan inf 0x2 -2 1.1x ' 1'; do
        fails 0 2 "--within: expected a number of at least 1, found '$number'" $hot \
            --within "$number"
    done

    # ---- wrong usage ----
    fails 0 2 "expected a subcommand, found ''" plan
    fails 0 2 "expected a subcommand, found 'pace'" plan pace
    fails 0 2 "--load FILE is missing" plan place --slots 16 --gpus 8
    fails 2 2 "--gpus D is missing" plan place --slots 16 --load "$load"
    fails 0 2 "--slots: expected an integer from 1 to 16777216" \
        plan place --load "$load" --gpus 8 --slots 99999999
    fails 0 2 "--nodes: expected at most --gpus 8, found 9" \
        plan place --load "$load" --gpus 8 --slots 16 --nodes 9
    fails 0 2 "--current: expected a file, found '-'" $place "$load" --current -

    # ---- bad files ----
    bad() { # TEXT CONTENT: refused with TEXT
        printf '%b' "$2" >"$work/bad"
        fails 0 1 "$work/bad: $1" plan place --slots 16 --gpus 8 --load "$work/bad"
    }
    bad "line 1, number 3: expected a finite number of at least 0, found 'nan'" '1 2 nan\n'
    bad "line 1, number 1: expected a finite number of at least 0, found 'inf'" 'inf 2\n'
    bad "line 2, number 2: expected a finite number of at least 0, found '-1'" '1 2\n1 -1\n'
    bad "line 1, number 2: expected a finite number of at least 0, found '1e39'" '1 1e39\n'
    bad "line 1, number 1: expected a finite number of at least 0, found '0x10'" '0x10 1\n'
    bad "line 1, number 1: expected a finite number of at least 0, found '1,2'" '1,2 3\n'
    bad "line 1, number 1: expected a finite number of at least 0, found '1e'" '1e 3\n'
    bad "line 1, number 2: expected a finite number of at least 0, found '?'" '1 \0001 3\n'
    bad "line 1, number 2: expected a finite number of at least 0, found '11111111111111111111...'" \
        "1 $(printf '1%.0s' {1..80})\n"
    bad "line 4: expected 2 numbers as in line 2, found 3" '# x\n1 2\n\n1 2 3\n'
    bad "line 2: expected 3 numbers as in line 1, found 1" '1 2 3\n4'
    bad "expected a line of numbers, found none" ''
    bad "expected a line of numbers, found none" '# 1 2\n\n  \n'
    bad "line 2: loads: expected a sum of at most" '1 2\n3e38 1\n'
    fails 0 1 "standard input: line 1, number 1" $place - <<<"x"
    fails 0 1 "$work/no/such: " $place "$work/no/such"
    fails 0 1 "$work: " $place "$work"
    fails 2 2 "--slots: expected at least the 12 experts of $load, found 11" \
        plan place --load "$load" --slots 11 --gpus 2
    fails 0 2 "--groups: expected at most the 12 experts of $load, found 13" \
        plan place --load "$load" --slots 16 --gpus 2 --groups 13

    current() { # TEXT CONTENT
        printf '%b' "$2" >"$work/bad"
        fails 0 1 "$work/bad: $1" $place "$load" --current "$work/bad"
    }
    current "expected 2 layers as in $load, found 1" '1 2 3\n'
    current "expected slots that --gpus 8 divides, found 2" '1 2\n3 4\n'
    current "line 2, number 8: expected an expert, 0 to 11, found 12" \
        '0 1 2 3 4 5 6 7\n0 1 2 3 4 5 6 12\n'
    current "line 1, number 2: expected an expert, 0 to 11, found 1.5" \
        '0 1.5 2 3 4 5 6 7\n0 1 2 3 4 5 6 7\n'

    # ---- outputs ----
    fails 0 2 "--load and --json name the same file" $place "$load" --json "$load"
    fails 0 2 "--current and --json name the same file" $place "$load" \
        --current "$work/current" --json "$work/current"
    fails 0 1 "$work/no/such/j" $place "$load" --json "$work/no/such/j"
    "$program" $place "$load" --json "$work/out" >/dev/full 2>"$work/stderr"
    [ $? -eq 1 ] || wrong "plan place to /dev/full: exit status"
    one_line "plan place to /dev/full" "standard output: No space left"
    no_output "plan place to /dev/full"
}
finish
