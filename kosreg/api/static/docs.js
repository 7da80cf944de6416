// Starts Swagger UI on this node's own document. In a file of its own, since the page's policy admits no inline script.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  layout: "BaseLayout",
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null, // the default asks a foreign host
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  displayRequestDuration: true,
});
