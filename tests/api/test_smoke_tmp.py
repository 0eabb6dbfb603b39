import pytest
pytestmark = pytest.mark.anyio

async def test_it(owner, anonymous, stranger, runner):
    assert (await anonymous("GET","/v1/agents")).status_code==401
    a=await owner.agent()
    r=await owner("GET",f"/v1/agents/{a}"); print(r.status_code,r.text,dict(r.headers))
    r=await owner("POST",f"/v1/agents/{a}/execute?wait=10",{"input":{"name":"Bob"}}); print(r.status_code,r.text)
    r=await owner("POST",f"/api/v1/agents/{a}/execute",{"input":{"name":"Bob"}}); print(r.status_code,r.text, dict(r.headers))
    r=await stranger("GET",f"/v1/agents/{a}"); print(r.status_code,r.text,dict(r.headers))
    e=await owner.ended()
    r=await owner("GET",f"/v1/executions/{e}"); print(r.status_code,r.text)
    r=await owner("GET",f"/v1/executions/{e}/events"); print(r.status_code,r.text)
    r=await owner("GET",f"/v1/executions?limit=1"); print(r.status_code,r.text,dict(r.headers))
    for p in ["/","/docs","/docs/errors","/readyz","/v1/node-types","/v1/models","/v1/me","/v1/api-keys","/v1/workspaces"]:
        r=await owner("GET",p); print(p,r.status_code,r.text[:300])
