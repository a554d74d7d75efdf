# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Where each of the scenes is shown that every Raft must survive, and that users of others met."""
from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ELECTIONS, REPLICATION, MEMBERSHIP, SNAPSHOTS, LOCKS = (
    f'test_scenarios_{theme}' for theme in ('elections', 'replication', 'membership', 'snapshots', 'locks'))
PROCESSES, DISKS, NETWORK, CHAOS = (
    f'test_processes{theme}' for theme in ('', '_disks', '_network', '_chaos'))
MEMBER, STORAGE, STATE_LOCKS, STATE = 'test_member', 'test_storage', 'test_state_locks', 'test_state'

SCENES = {
    # 1. Pre-vote and check-quorum.
    'no pre-vote is given while a leader is heard, and no vote inside its lease':
        [(ELECTIONS, 'test_votes_are_refused_inside_the_lease')],
    'a quorum of those who only ask elects all the same':
        [(ELECTIONS, 'test_two_who_ask_at_once_both_stand_and_one_of_them_wins_the_next_term')],
    'a leader without a quorum steps down':
        [(ELECTIONS, 'test_leader_without_a_quorum_steps_down'),
         (NETWORK, 'test_no_half_of_a_fleet_decides_without_the_other')],
    # 2. Nodes that are behind.
    'a node whose log is behind cannot disrupt':
        [(ELECTIONS, 'test_pre_vote_with_a_stale_log_does_not_disrupt'),
         (ELECTIONS, 'test_stale_log_is_refused_also_without_a_leader')],
    'a node of a lower term blocks no election':
        [(ELECTIONS, 'test_member_of_a_lower_term_does_not_block_elections'),
         (ELECTIONS, 'test_leader_of_a_lower_term_learns_of_the_higher_one')],
    'pre-votes never count as votes, nor do votes of an earlier term':
        [(ELECTIONS, 'test_pre_votes_never_count_as_votes'),
         (ELECTIONS, 'test_votes_of_an_earlier_term_count_for_nothing')],
    # 3. The figures of the Raft paper.
    'figure 7: every divergence converges':
        [(REPLICATION, 'test_figure_7_divergence_converges')],
    'figure 8: only entries of the own term are committed by counting':
        [(REPLICATION, 'test_figure_8_old_entry_is_not_committed_by_counting')],
    # 4. Membership.
    'a leader that a change removes steps down':
        [(MEMBERSHIP, 'test_leader_removed_by_a_change_steps_down_when_it_is_complete')],
    'a learner that is behind votes when it is promoted':
        [(MEMBERSHIP, 'test_learner_promoted_while_behind_votes_nevertheless'),
         (SNAPSHOTS, 'test_learner_that_is_promoted_is_spoken_to_directly')],
    'joint quorums are safe':
        [(MEMBERSHIP, 'test_joint_change_needs_both_majorities'),
         (MEMBERSHIP, 'test_an_election_in_a_joint_configuration_needs_both_majorities'),
         (MEMBERSHIP, 'test_next_leader_completes_a_change_that_was_left_joint'),
         (MEMBERSHIP, 'test_a_change_that_was_not_committed_is_taken_back_with_its_leader')],
    # 5. Replication.
    'a late append reply after a truncation is harmless':
        [(REPLICATION, 'test_late_append_reply_after_truncation_is_harmless')],
    'a follower behind the snapshot catches up':
        [(SNAPSHOTS, 'test_follower_behind_the_snapshot_catches_up_in_chunks'),
         (SNAPSHOTS, 'test_lost_chunk_is_sent_again'),
         ('test_processes_snapshots', 'test_a_member_that_missed_the_log_gets_the_state_and_says_so')],
    'flow control resumes after a pause':
        [(REPLICATION, 'test_flow_control_resumes_after_lost_appends'),
         (REPLICATION, 'test_flow_control_resumes_after_lost_replies')],
    'replies to heartbeats recover a follower that is stuck':
        [(REPLICATION, 'test_a_heartbeat_recovers_a_follower_whose_probe_was_lost')],
    # 6. Reads.
    'no linearizable read before the leader has committed in its term':
        [(SNAPSHOTS, 'test_no_read_before_the_leader_has_committed_in_its_term')],
    'a leader that lost its lease serves no reads':
        [(SNAPSHOTS, 'test_read_waits_for_a_quorum_that_confirms_the_leader'),
         (SNAPSHOTS, 'test_deposed_leader_answers_no_read'),
         (MEMBER, 'test_a_read_without_a_quorum_is_not_answered_from_old_state')],
    # 7. Locks.
    'a waiter whose wait is over does not get the lock':
        [(STATE_LOCKS, 'test_an_expired_waiter_is_never_granted'),
         (LOCKS, 'test_a_waiter_whose_wait_is_over_does_not_get_the_lock')],
    'a stalled old leader revokes nothing':
        [(LOCKS, 'test_a_stalled_old_leader_revokes_nothing'),
         (PROCESSES, 'test_a_stopped_leader_is_succeeded_and_acknowledges_nothing_afterwards')],
    'repeated elections do not immortalise a lease':
        [(STATE_LOCKS, 'test_repeated_elections_neither_shorten_nor_immortalise_a_lease'),
         (LOCKS, 'test_a_lease_survives_failovers_and_ends_after_them')],
    'a critical section that outlives its lease is stopped by the fencing token':
        [(LOCKS, 'test_a_critical_section_that_outlives_its_lease_is_stopped_by_its_token')],
    # 8. Disks.
    'all restart at once':
        [(LOCKS, 'test_all_restart_at_once_and_no_lock_is_lost'),
         (PROCESSES, 'test_all_restart_at_once_and_keep_the_locks')],
    'the disk is full':
        [(SNAPSHOTS, 'test_stalled_leader_hands_over_and_takes_nothing'),
         (MEMBER, 'test_a_leader_whose_disk_is_full_hands_over_and_says_so'),
         (PROCESSES, 'test_a_full_disk_is_said_and_survived'),
         (DISKS, 'test_a_leader_whose_disk_is_full_hands_over_and_comes_back')],
    'the last record of the log is torn':
        [(STORAGE, 'test_a_torn_tail_loses_only_what_was_not_acknowledged'),
         (DISKS, 'test_a_torn_record_is_cut_off_and_the_member_goes_on')],
    'a byte of the log is flipped: it refuses to join with wrong data and says why':
        [(STORAGE, 'test_every_flipped_byte_is_refused_with_file_and_offset'),
         (PROCESSES, 'test_a_damaged_log_keeps_the_node_alive_and_out'),
         (DISKS, 'test_a_flipped_byte_keeps_a_member_out_until_its_directory_is_gone')],
    # What users of other systems met.
    'etcd 8499, 9333: a node that rejoins disturbs nobody':
        [(NETWORK, 'test_a_follower_that_was_away_disturbs_nobody'),
         (DISKS, 'test_a_follower_that_sleeps_holds_up_nobody_and_disturbs_nobody')],
    'etcd 10201: leadership goes where it is wanted':
        [(ELECTIONS, 'test_leadership_goes_to_the_one_that_was_chosen'),
         (MEMBER, 'test_leadership_is_handed_over_on_request')],
    'etcd 13294, 9888: a time to live across a failover':
        [(LOCKS, 'test_a_lease_survives_failovers_and_ends_after_them'),
         (PROCESSES, 'test_the_leader_is_killed_twenty_times')],
    'etcd 18089, 19179, 20262: no event is lost silently after compaction':
        [(MEMBER, 'test_a_member_that_missed_the_log_gets_the_state_and_a_gap'),
         (STATE, 'test_late_subscribers_catch_up_without_a_gap')],
    'Open-RMF 102: the dispatcher dies':
        [('test_processes_tasks', 'test_tasks_outlive_the_leader_that_placed_them')],
    'Open-RMF 224, 119: the tasks of a dead robot move':
        [('test_state_tasks', 'test_the_tasks_of_a_dead_robot_move_once_after_lease_and_grace'),
         ('test_tasks', 'test_the_task_of_a_robot_that_dies_moves_after_its_lease')],
    'PySyncObj 202: no loss when all restart at once':
        [(CHAOS, 'test_twenty_seconds_of_random_faults')],
    'PySyncObj 164: a full disk is survived':
        [(STORAGE, 'test_a_full_disk_leaves_the_log_readable')],
    'PySyncObj 133: no stale membership':
        [(MEMBER, 'test_a_removed_robot_does_not_come_back_until_its_disk_is_gone'),
         (MEMBERSHIP, 'test_wiped_voter_counts_for_nothing')],
}


@pytest.mark.parametrize('scene', SCENES)
def test_the_scene_is_shown(scene: str) -> None:
    for file, name in SCENES[scene]:
        tree = ast.parse((HERE / f'{file}.py').read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, name)
