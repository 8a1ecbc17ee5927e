"""Changing what is left of a query once real sizes are known: pure decisions, one a module, each with its reason.

What belongs here: functions from stages, what complete stages committed and settings, to other stages. Each of them may
be left out: the rows are the same. What does not: which stage is next (:mod:`apiary_df.schedule`), tasks
(:mod:`apiary_df.tasks`), finishing in the session (:mod:`apiary_df.plan.fold`).
"""
