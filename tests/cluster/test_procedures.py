"""What worked, with everything real behind it: corrected once, an answer is there for the next question like it."""

import httpx
import pytest

from cluster.local import LocalCluster

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_correction_stands_in_the_prompt_of_a_question_like_it_until_it_is_deleted(local: LocalCluster) -> None:
    async with httpx.AsyncClient(base_url=local.http, timeout=120) as client:

        async def ask(question: str, **russet: object) -> dict:
            body = {"messages": [{"role": "user", "content": question}], "max_tokens": 4, "russet": russet}
            reply = await client.post("/v1/chat/completions", json=body)
            assert reply.status_code == 200, reply.text
            return reply.json()

        async def items() -> list[dict]:
            answer = await ask("How long should rye dough rest?", context={"kinds": ["procedural"]})
            return answer["russet"]["retrieval"]["context"]["items"]

        answer = await ask("How long does the dough of a rye bread rest?")
        told = {"response_id": answer["id"], "correction": "Ninety minutes."}
        assert (await client.post("/v1/feedback", json=told)).json() == {"found": True}
        await local.service("learner").service.flush()
        (row,) = (await client.get("/v1/russet/procedures")).json()["data"]
        assert (row["answer"], row["source"], row["rating"]) == ("Ninety minutes.", "corrected", 1.0)
        assert [(item["kind"], item["id"], item["taken"]) for item in await items()] == [
            ("procedural", row["id"], True)
        ]
        assert (await client.delete(f"/v1/russet/procedures/{row['id']}")).json()["deleted"]
        assert await items() == []
        assert (await client.get("/v1/russet/procedures")).json()["data"] == []
