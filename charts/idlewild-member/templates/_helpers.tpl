{{- /* --reuse-values takes the values of the old chart alone, without what the new one added. */ -}}
{{- define "idlewild-member.complete" -}}
{{- range list "crds" "metrics" "networkPolicy" "podLabels" -}}
{{- if not (hasKey $.Values .) -}}
{{- fail (printf "%s in the values is missing: use --reset-then-reuse-values instead of --reuse-values" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "idlewild-member.namespace" -}}
{{- include "idlewild-member.complete" . -}}
{{- .Release.Namespace -}}
{{- end -}}

{{- define "idlewild-member.labels" -}}
app.kubernetes.io/name: idlewild-member
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: idlewild
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "idlewild-member.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "idlewild-member.proxy" -}}
{{- if .Values.proxy.httpsProxy -}}
# The way to hubs; this cluster's API server is reached without it.
- name: HTTPS_PROXY
  value: {{ .Values.proxy.httpsProxy | quote }}
- name: NO_PROXY
  value: {{ printf "$(KUBERNETES_SERVICE_HOST),%s" .Values.proxy.noProxy | quote }}
{{- end -}}
{{- end -}}
